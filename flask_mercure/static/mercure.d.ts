/** A topic, `*`, or a matcher of protocol 1.0. In 0.x a string may be a URI Template. */
export type Topic = string | { match: string; match_type?: "exact" | "urlpattern" };
export type Topics = Topic | Iterable<Topic>;

export type TransportName = "fetch" | "eventsource" | "websocket";

export interface Options {
  /** Joined with those of the URL. */
  topics?: Topics;
  /** What `mercure.last_event_id()` gave to the view; without it the stream begins when it is open. */
  lastEventId?: string | null;
  /**
   * Begin with the newest update of each topic, also of topics that `subscribe` adds; without `lastEventId`. Needs
   * the hub of this project. The page has a stream of its own then.
   */
  lastValue?: boolean;
  /** Default: `1.0`, or what the URL's parameters tell. */
  protocol?: "1.0" | "0.x";
  /**
   * `fetch` (default) reports lost history and refusals, hears all event types and can send a token.
   * `eventsource` shows events in the developer tools. `websocket` needs the hub of this project.
   */
  transport?: TransportName;
  /** Go over to a WebSocket when event streams are held back. Default: true; never with a token. */
  fallback?: boolean;
  /** Sent as `Authorization: Bearer`, and cookies are not; a function is called for each request. */
  token?: string | (() => string | Promise<string>) | null;
  /** Default: `include`. A hub that allows any origin (`*`) wants `omit`. */
  credentials?: RequestCredentials;
  /**
   * Renews the cookie or the token: a URL that answers a POST, or a function. The function returns a new token, a
   * `Session`, the `Response` of a fetch, or nothing after it has had the cookie set. `false` from it, and 401, 403
   * or a redirect, mean that the user is signed out.
   */
  refresh?: string | (() => unknown) | null;
  /** Seconds after which the cookie is renewed unasked; 0 for never. */
  refreshAfter?: number;
  /** Seconds between two signs of life of the hub; 40, as the hub's default. 0 when it sends none. */
  heartbeat?: number;
  /** One stream for all tabs. Default: true, unless there is a token and no `identity`. */
  share?: boolean;
  /**
   * A name for the user, where the Flask extension does not set the cookie. Tabs with another identity have a stream of
   * their own, and stop when a page of another one begins.
   */
  identity?: string;
  /**
   * For hubs that do not name the topics of updates, as this project's does: `"type"`, the event type is the topic; or a
   * function that finds it in the update.
   */
  topicOf?: "type" | ((update: Update) => string | string[] | null | undefined) | null;
}

/** What `mercure.session()` answers. */
export interface Session extends Options {
  /** Of the hub. */
  url: string;
  /** Of this module, for a page that neither has it from npm nor from `mercure_script()`. */
  module?: string;
}

export interface SubscribeOptions {
  /** Begin after this update: what `mercure.last_event_id()` gave. Without it, updates begin with the subscription. */
  lastEventId?: string | null;
}

export class Update {
  readonly id: string;
  readonly type: string;
  readonly data: string;
  /** Those of its topics that were subscribed to, as the hub names them or `topicOf` tells; else empty. */
  readonly topics: string[];
  /** The data, parsed as JSON. */
  json<T = any>(): T;
}

/**
 * `idle`: no topics. `open`: the page has everything, and what comes from now on is new. `offline`: another attempt follows by itself. `refused`: the hub wants other credentials;
 * seldom attempts follow. `closed`: by `close()`.
 */
export type State = "idle" | "connecting" | "open" | "offline" | "refused" | "closed";

export interface StateDetail {
  state: State;
  /** HTTP status of the answer, if there was one. */
  status?: number;
  /**
   * Why this project's hub refused, such as `token-expired`: a name of docs/problems.md. `identity-changed`: the cookie
   * has become that of another user; the page goes on when its user is back. After `token-revoked`, and
   * when the application says that nobody is signed in any more, no attempts follow until the page is looked at
   * again, or `renewed()` is called.
   */
  reason?: string;
  error?: string;
  /** Time of the next attempt, if one follows by itself, in milliseconds since 1970. */
  until?: number;
}

/**
 * Updates after `requested` may be missing: fetch again what the page shows.
 *
 * `start`: the hub does not have the update after which the page begins. `history`: nor the one at which the
 * connection was lost. `position`: the page did not know where it was when its stream opened, later than it should.
 */
export interface GapDetail {
  reason: "start" | "history" | "position";
  requested: string | null;
  resumed: string | null;
}

/**
 * `unanswered`: the hub's answer takes more than ten seconds. `silent`: it answered and nothing follows, as behind
 * a proxy that buffers. After both a WebSocket may take the stream's place. `no-topic`: nobody tells the topic of the
 * update `id`, which was dropped: neither `topicOf`, nor the hub on a stream that several tabs share.
 */
export interface ProblemDetail {
  reason: "unanswered" | "silent" | "no-topic";
  id?: string;
}

/** Somebody who is at a topic, however many tabs and devices they have. */
export interface Person {
  /** The app's user; `null` when the token names nobody, and equal payloads are one person. */
  readonly user: string | null;
  /** That of the token: of the newest connection. */
  readonly payload: any;
  /** How many there are; 0 while somebody may come back. Tabs of one browser can share one. */
  readonly connections: number;
}

export interface PresenceCallbacks {
  /** Called once, with everybody who is there, this page's own user too. */
  here?(people: Person[]): void;
  joining?(person: Person, people: Person[]): void;
  /** Called 15 seconds after somebody's last connection ended: a reload is no leaving. */
  leaving?(person: Person, people: Person[]): void;
  /** The number of people: at first, and when it has changed. */
  count?(people: number): void;
}

export interface PresenceOptions {
  /** `false`: look on without being at the topic. Default: true. */
  join?: boolean;
}

declare global {
  interface DocumentEventMap {
    /** Before `gap`; with `preventDefault()`, elements of `mercure_on` leave it to the page. */
    "mercure:gap": CustomEvent<GapDetail>;
  }
}

export interface MercureEvents {
  state: CustomEvent<StateDetail>;
  gap: CustomEvent<GapDetail>;
  problem: CustomEvent<ProblemDetail>;
}

export class Mercure extends EventTarget {
  readonly state: State;
  /** What the option says, or `websocket` when that took its place. */
  readonly transport: TransportName;
  /** Id of the last update that is known. */
  readonly lastEventId: string | null;
  /** Listen to updates of a type, `message` for those without one. Returns what takes the listener off. */
  on(type: string, listener: (update: Update) => void): () => void;
  /** Subscribe to more topics. A listener gets their updates and no others. Returns what ends it. */
  subscribe(
    topics: Topics,
    listener?: ((update: Update) => void) | null,
    options?: SubscribeOptions,
  ): () => void;
  /**
   * Subscribe to a topic and follow who else has. The user needs what `mercure.presence(topic).grants` has in
   * Python, and the hub MERCURE_SUBSCRIPTIONS=1. Returns what ends it.
   */
  presence(topic: string, callbacks?: PresenceCallbacks, options?: PresenceOptions): () => void;
  /**
   * Subscribe to a topic and follow how many have: connections, of which the tabs of a browser can share one. The
   * number comes at once, and at most once a second. The user needs what `mercure.presence_count(topic).grants` has.
   */
  presenceCount(topic: string, callback: (connections: number) => void, options?: PresenceOptions): () => void;
  /**
   * Load the page anew by its address after a gap: when no form has what was not sent, at the earliest 30 seconds
   * after the time before. The answer of a POST stays; the console says so.
   */
  reload(): void;
  /** Tell that the cookie has changed, to whomever it belongs now, or what the token is now. */
  renewed(token?: string): void;
  close(): void;
  addEventListener<K extends keyof MercureEvents>(
    type: K,
    listener: (event: MercureEvents[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

/**
 * The page's one connection, made of what `mercure_script()` has put into the page. The options win; only the first
 * call may have some.
 */
export function connect(options?: Options): Mercure;
/** The same, made of what `mercure.session()` answers: `connect(await (await fetch("/session")).json())`. */
export function connect(session: Session, options?: Options): Mercure;
/** Another connection, to a hub. The URL may have matchers, as `mercure_url()` gives it. */
export function connect(url: string | URL, options?: Options): Mercure;
/** `connect().on(type, listener)` */
export function on(type: string, listener: (update: Update) => void): () => void;
/** `connect().subscribe(topics, listener, options)` */
export function subscribe(
  topics: Topics,
  listener?: ((update: Update) => void) | null,
  options?: SubscribeOptions,
): () => void;
/** `connect().presence(…)`, on the page's connection. */
export function presence(topic: string, callbacks?: PresenceCallbacks, options?: PresenceOptions): () => void;
/** `connect().presenceCount(…)`, on the page's connection. */
export function presenceCount(
  topic: string,
  callback: (connections: number) => void,
  options?: PresenceOptions,
): () => void;

/** How far a job is, as `mercure.progress()` has published it. */
export interface ProgressState {
  state: "running" | "done" | "failed";
  value: number;
  /** `null` if it is not known. */
  total: number | null;
  label: string | null;
  /** With `done`: `step.result`, if the job has set it. */
  result?: any;
  /** With `failed`: a sentence for the user. */
  message?: string;
}

export interface ProgressListener {
  running?(state: ProgressState): void;
  done?(state: ProgressState): void;
  /** The job may be tried again, and be running after this. */
  failed?(state: ProgressState): void;
}

/** Follow a job from its present state until it is done. Returns what ends it earlier. */
export function progress(topic: string, listener: ProgressListener, mercure?: Mercure): () => void;

/**
 * The browser's interface, for URLs of the page's hub: all instances share the page's connection and its credentials,
 * each with its own topics and position. For other URLs it makes the browser's own.
 */
export const EventSource: typeof globalThis.EventSource;
export type EventSource = globalThis.EventSource;
