// Real-time updates from a Mercure hub, on one connection for all tabs of the browser.
//
//     const mercure = connect(url);
//     mercure.on("message", (update) => show(update.json()));

import { Fallback } from "./fallback.js";
import { Feed } from "./feed.js";
import { canShare, SharedFeed } from "./shared_feed.js";
import { Credentials } from "./stream.js";
import { isSubset, readTopics, readUrl, topicFilter } from "./topics.js";
import { TRANSPORTS } from "./transports.js";

const LOADED_ANEW = 30_000; // milliseconds between two reloads of a page by itself
const CONFIGURATION = 'script[type="application/json"][data-mercure]';

/** An update. */
export class Update {
  #topics;

  constructor({ id, type, data }, topicOf) {
    this.id = id;
    this.type = type;
    this.data = data;
    this.#topics = topicOf;
  }

  /** The data, parsed as JSON. */
  json() {
    return JSON.parse(this.data);
  }

  /** The topics, as far as `topicOf` tells; the protocol does not carry them. */
  get topics() {
    const found = this.#topics(this);
    return (Array.isArray(found) ? found : [found]).filter((topic) => typeof topic === "string");
  }
}

/**
 * Subscribe.
 *
 * @param {string | URL | object} [url] of the hub, with or without matchers, or what `mercure.session()` has
 *   answered; left out, all is as `mercure_script` has put it into the page, but for the options
 * @param {object} [options] see mercure.d.ts
 * @returns {Mercure}
 */
export function connect(url, options = {}) {
  if (typeof url === "string" || url instanceof URL) return new Mercure(url, options);
  const { url: hub, ...rest } = url?.url === undefined ? { ...configuration(), ...url } : url;
  return new Mercure(hub, { ...rest, ...options });
}

/** What `mercure_script` has put into the page. */
function configuration() {
  const element = document.querySelector(CONFIGURATION);
  if (element) return JSON.parse(element.textContent);
  throw new Error(
    "there is no URL: give one, or what mercure.session() answers, or use mercure_script() in the page's template",
  );
}

/** Its own events: "state", "gap" and "problem", each with a `detail`. Updates go to `on` and `subscribe`. */
export class Mercure extends EventTarget {
  #settings;
  #options;
  #topicOf;
  #wanted = new Map(); // key of a matcher -> {matcher, count}
  #byType = new Map(); // type -> Set of listeners
  #byTopic = new Set(); // {filter, listener}
  #feed = null;
  #name = "";
  #filter = () => true;
  #changes = 0; // timer
  #abort = new AbortController(); // takes the listeners off the page
  #state = "idle";
  #hasBegun = false; // a stream was open
  #reload = 0; // timer

  constructor(url, options) {
    super();
    const read = readUrl(url);
    const {
      topics = [],
      lastEventId = read.lastEventId,
      lastValue = read.lastValue,
      protocol = read.protocol ?? "1.0",
      transport = "fetch",
      fallback = true,
      token = null,
      credentials = "include",
      refresh = null,
      refreshAfter = 0,
      heartbeat = 40,
      share = token === null || options.identity !== undefined,
      topicOf = null,
    } = options;
    if (!Object.hasOwn(TRANSPORTS, transport)) {
      const given = JSON.stringify(transport);
      throw new TypeError(`the transport is ${given}; known are "fetch", "eventsource" and "websocket"`);
    }
    if (token !== null && transport !== "fetch") {
      throw new TypeError("only the transport fetch can send a token");
    }
    if (token !== null && typeof token !== "function" && (typeof token !== "string" || token === "")) {
      throw new TypeError("token is neither a token nor a function that returns one");
    }
    // A stream that runs already in another tab has sent the last values there.
    this.#options = { share: share && !lastValue, identity: options.identity ?? "", lastEventId };
    this.#topicOf = topicOf === "type" ? ({ type }) => type : topicOf;
    this.#settings = {
      url: read.url,
      protocol,
      fallback: new Fallback(transport, fallback, token !== null, read.url),
      hearsAllTypes: TRANSPORTS[transport].hearsAllTypes, // the fallback hears them all
      credentials,
      access: new Credentials(refresh, refreshAfter * 1000, token),
      lastValue,
      heartbeat: heartbeat * 1000,
      ownTypes: () => this.#byType.keys(),
      types: () => this.#byType.keys(),
    };
    this.#count(new Map([...readTopics(read.topics), ...readTopics(topics)]), 1);
    this.#watchPage();
    this.#changed(); // not yet: who has made this object may want to listen first
  }

  /** "idle", "connecting", "open", "offline", "refused" or "closed". */
  get state() {
    return this.#state;
  }

  /** "fetch", "eventsource" or "websocket": what the option says, or what took its place. */
  get transport() {
    return this.#settings.fallback.name;
  }

  /** Id of the last update. */
  get lastEventId() {
    return this.#feed?.cursor ?? null;
  }

  /**
   * Listen to updates of a type: "message" are those that were published without one.
   *
   * @returns {() => void} takes the listener off
   */
  on(type, listener) {
    const listeners = this.#byType.get(type) ?? new Set();
    const isNew = !this.#byType.has(type) && type !== "message";
    this.#byType.set(type, listeners.add(listener));
    if (isNew && !this.#settings.hearsAllTypes) this.#retype();
    return () => void listeners.delete(listener);
  }

  /**
   * Subscribe to more topics.
   *
   * @param {import("./topics.js").Topic | Iterable<import("./topics.js").Topic>} topics
   * @param {(update: Update) => void} [listener] gets their updates and no others; needs `topicOf`
   * @returns {() => void} ends this subscription
   */
  subscribe(topics, listener) {
    this.#check();
    const matchers = readTopics(topics);
    let entry = null;
    if (listener) {
      if (!this.#topicOf) {
        throw new TypeError(
          "a listener for topics needs the option topicOf: the protocol does not tell an update's topic",
        );
      }
      entry = { filter: topicFilter(matchers, this.#settings.url), listener };
      this.#byTopic.add(entry);
    }
    this.#count(matchers, 1);
    this.#changed();
    let isEnded = false;
    return () => {
      if (isEnded || this.#state === "closed") return;
      isEnded = true;
      this.#byTopic.delete(entry);
      this.#count(matchers, -1);
      this.#changed();
    };
  }

  /** The cookie, or the token, has changed: go over to a stream that was opened with it. */
  renewed(token) {
    this.#check();
    this.#settings.access.note(token === undefined ? {} : { token });
    this.#feed?.renew();
  }

  /**
   * Reload the page, because updates are missing.
   *
   * A page that was reloaded less than 30 seconds ago waits until then: what did not help the first time
   * must not make it do so for ever.
   */
  reload() {
    const [navigation] = performance.getEntriesByType("navigation");
    const age = performance.now();
    const rest = navigation?.type === "reload" ? LOADED_ANEW - age : 0;
    this.#reload ||= setTimeout(() => location.reload(), Math.max(0, rest));
  }

  /** End everything. */
  close() {
    clearTimeout(this.#changes);
    clearTimeout(this.#reload);
    this.#abort.abort();
    this.#feed?.close();
    this.#feed = null;
    this.#byType.clear();
    this.#byTopic.clear();
    this.#setState("closed", {});
  }

  #check() {
    if (this.#state === "closed") throw new Error("this connection was closed");
  }

  #count(matchers, step) {
    for (const [key, matcher] of matchers) {
      const count = (this.#wanted.get(key)?.count ?? 0) + step;
      if (count > 0) this.#wanted.set(key, { matcher, count });
      else this.#wanted.delete(key);
    }
  }

  /** Several changes of one moment are one for the hub. */
  #changed() {
    this.#changes ||= setTimeout(() => {
      this.#changes = 0;
      this.#apply();
    });
  }

  #apply() {
    const topics = new Map([...this.#wanted].map(([key, { matcher }]) => [key, matcher]));
    this.#filter = this.#topicOf ? topicFilter(topics, this.#settings.url) : () => true;
    const { share, identity, lastEventId } = this.#options;
    const isShared = share && canShare();
    // Tabs that cannot tell the topic of an update share a stream only when they want the same topics:
    // otherwise one would get what the other has subscribed to.
    // The module's address has its version: tabs of two versions do not understand each other.
    const parts = [import.meta.url, this.#settings.url.href, identity];
    if (!this.#topicOf) parts.push(...[...topics.keys()].sort());
    const name = isShared ? `mercure ${JSON.stringify(parts)}` : "";
    if (this.#feed && this.#name === name) {
      this.#feed.change(topics);
      return;
    }
    this.#name = name;
    const before = this.#feed;
    const cursor = before ? before.cursor : lastEventId;
    const from = before && cursor !== null ? before.covered : topics;
    before?.close();
    const isCurrent = () => this.#feed === feed;
    const sink = {
      event: (event) => isCurrent() && this.#deliver(event),
      state: (state, detail) => isCurrent() && this.#setState(state, detail),
      gap: (detail) => isCurrent() && this.#gap(detail),
      problem: (detail) => isCurrent() && this.#tell("problem", detail),
      covered: () => {},
    };
    const feed = isShared
      ? new SharedFeed(this.#settings, name, from, cursor, sink)
      : new Feed(this.#settings, from, cursor, sink);
    this.#feed = feed;
    feed.start();
    if (!isSubset(topics, from) || !isSubset(from, topics)) feed.change(topics);
  }

  #retype() {
    if (this.#feed instanceof SharedFeed) this.#feed.retype();
    else this.#feed?.renew();
  }

  #deliver(event) {
    const update = new Update(event, (one) => this.#topicsOf(one));
    const entries = [...this.#byTopic];
    if (this.#topicOf) {
      let topics;
      try {
        topics = update.topics;
      } catch (error) {
        reportError(error);
        topics = [];
      }
      if (topics.length === 0) {
        this.#tell("problem", { reason: "no-topic", id: update.id });
        return;
      }
      if (!topics.some(this.#filter)) return; // for another tab
      for (const { filter, listener } of entries) if (topics.some(filter)) call(listener, update);
    }
    for (const listener of [...(this.#byType.get(update.type) ?? [])]) call(listener, update);
  }

  #topicsOf(update) {
    if (!this.#topicOf) return undefined;
    // The hub's own updates, about subscriptions, name their topic in their way.
    return update.type === "mercure" ? update.json().id : this.#topicOf(update);
  }

  #gap(detail) {
    const isStart = !this.#hasBegun && detail.reason === "history";
    if (isStart) {
      console.warn(
        `mercure: the hub does not have the update ${detail.requested}, after which this page begins: take ` +
          "last_event_id from mercure.last_event_id(), in the view and before its data",
      );
    }
    this.#tell("gap", isStart ? { ...detail, reason: "start" } : detail);
  }

  #setState(state, detail) {
    if (state === this.#state && state !== "offline") return;
    this.#state = state;
    if (state === "open") this.#hasBegun = true;
    this.#tell("state", { ...detail, state });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** Come back from wherever the page was: without network, in the background, in the back/forward cache. */
  #watchPage() {
    const { signal } = this.#abort;
    const wake = () => this.#feed?.wake();
    window.addEventListener("online", wake, { signal });
    window.addEventListener("offline", () => this.#feed?.doubt(), { signal });
    window.addEventListener("pageshow", wake, { signal });
    document.addEventListener("resume", wake, { signal });
    document.addEventListener("visibilitychange", wake, { signal });
    // A page that is put away holds no stream, and no lock: another tab leads.
    window.addEventListener("pagehide", () => this.#feed?.close(), { signal });
    document.addEventListener("freeze", () => this.#feed?.close(), { signal });
  }
}

/** A listener that fails keeps no other from its update. */
function call(listener, update) {
  try {
    listener(update);
  } catch (error) {
    reportError(error);
  }
}
