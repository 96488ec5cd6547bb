// One subscription to the hub, kept up: it resumes after each loss with the last event that it has.

import { subscriptionUrl } from "./topics.js";
import { TRANSPORTS } from "./transports.js";

const FIRST_DELAY = 1000; // milliseconds before a second attempt, unless the hub names a time
export const LONGEST_DELAY = 30_000; // milliseconds
const EARLIEST = "earliest"; // the cursor of all that the hub has
const REVOKED = "token-revoked"; // the hub's name for access that the application has ended
const MISSING = "token-missing"; // and what one says that lets nobody in without a token
const UNANSWERED = 10_000; // milliseconds without an answer, after which something seems to hold it back
const LONGEST_WAIT = 3_600_000; // milliseconds; browsers fire a timer of more than 2**31 - 1 at once
const SHORTEST_RETRY = 100; // milliseconds, whatever the hub names

/** Milliseconds for a timer whose length comes from elsewhere: at most an hour, and 0 for what is no length. */
export const bounded = (milliseconds) => (milliseconds > 0 ? Math.min(milliseconds, LONGEST_WAIT) : 0);

/** A moment by both clocks: one may be set back, the other may stand still while the computer sleeps. */
const moment = () => ({ wall: Date.now(), steady: performance.now() });

/** Milliseconds since a moment, by the clock that says more. */
const since = ({ wall, steady }) => Math.max(Date.now() - wall, performance.now() - steady);

/**
 * @typedef {object} Settings of all streams of a page
 * @property {URL} url of the hub
 * @property {"1.0" | "0.x"} protocol
 * @property {import("./fallback.js").Fallback} fallback names the transport
 * @property {boolean} hearsAllTypes whichever transport it may be
 * @property {RequestCredentials} credentials
 * @property {Credentials} access has the token, and renews it or the cookie
 * @property {() => boolean} isForeign whether the cookie is that of somebody else than the page's; closes all streams then
 * @property {boolean} lastValue begin with the newest update of each topic
 * @property {number} heartbeat of the hub, in milliseconds; 0 when it has none
 * @property {() => Iterable<string>} types event types that somebody listens to
 */

/**
 * The sink's methods: `event(e)`, `state(state, detail)`, `gap(detail)`, `problem(detail)`, and `named(isNamed)` before
 * the state is open: whether events come with their topics.
 */
export class Stream {
  #settings;
  #sink;
  #name = ""; // of the transport
  #end = null; // ends it
  #turn = 0; // counts what was begun, so that what was waited for can tell whether it still matters
  #timer = 0; // of the next attempt
  #watch = 0;
  #attempts = 0;
  #delay = FIRST_DELAY;
  #lastSign = null; // when the hub was last heard
  #hasRenewed = false; // since it was open: a second refusal is not for the cookie's age
  #isClosed = false;
  #isBarred = false; // another attempt with what the page has would be refused again
  isOpen = false; // the hub has accepted it
  isLive = false; // and has sent all of the history, as far as it tells: the state is open

  /**
   * @param {Settings} settings
   * @param {import("./topics.js").Matchers} topics
   * @param {string | null} cursor id of the last event that is known; `null` starts now
   * @param {object} sink
   * @param {boolean} isLate what is not known was wanted before now
   */
  constructor(settings, topics, cursor, sink, isLate = false) {
    this.isLate = isLate;
    this.#settings = settings;
    this.topics = topics;
    this.cursor = cursor;
    this.#sink = sink;
  }

  /** Called once, when the sink can take what comes. */
  start() {
    this.#open();
  }

  close() {
    this.#isClosed = true;
    this.isOpen = this.isLive = false;
    this.#stop();
  }

  /** Something changed (the network is back, the page is looked at): don't wait for a timer. */
  wake() {
    if (this.#isClosed) return;
    if (this.#timer || this.#isBarred) this.#open();
    else if (this.isOpen && this.#isTooQuiet(1.5)) this.#again({});
  }

  /** The network is gone, perhaps: look, and if it is, say so and when the next attempt is. */
  doubt() {
    if (this.isOpen) this.#again({});
  }

  #stop() {
    this.#turn++;
    clearTimeout(this.#timer);
    clearTimeout(this.#watch);
    this.#timer = 0;
    this.#end?.();
    this.#end = null;
  }

  async #open() {
    this.#stop();
    this.#isBarred = false;
    const { access, url, protocol, fallback, credentials, types, lastValue } = this.#settings;
    this.#sink.state("connecting", {});
    if (access.isOver || access.isDue()) {
      const turn = this.#turn;
      const outcome = await access.renew();
      if (outcome === "failed") access.postpone();
      if (turn !== this.#turn) return;
      if (access.isOver) return void this.#wait(outcome === "refused" ? { status: 401, reason: access.why } : {});
    }
    if (this.#settings.isForeign()) return;
    const requested = this.cursor;
    this.#lastSign = moment();
    this.#name = fallback.name;
    this.#watch = setTimeout(() => this.#heldBack("unanswered"), UNANSWERED);
    const address = subscriptionUrl(url, this.topics, protocol, requested, lastValue);
    // What this project's hub sends then, with events and behind the history; others do not know the parameter.
    if (this.#transport.showsTopics) {
      for (const extra of ["topics", "live", "access"]) address.searchParams.append("with", extra);
    }
    this.#end = this.#transport.open(
      { url: address, token: access.token, credentials, types: types() },
      {
        open: (head) => this.#opened(requested, head),
        live: () => this.#live(),
        alive: () => (this.#lastSign = moment()),
        retry: (milliseconds) => {
          this.#delay = Math.max(SHORTEST_RETRY, Math.min(bounded(milliseconds), LONGEST_DELAY));
        },
        event: (event) => {
          if (event.id) this.cursor = event.id;
          this.#sink.event(event);
        },
        end: (end) => this.#again(end),
      },
    );
  }

  get #transport() {
    return TRANSPORTS[this.#name];
  }

  /** Tell, and go on with another transport after the last event of this one, if there is one. */
  #heldBack(reason) {
    this.#sink.problem({ reason });
    this.isLate = true;
    if (this.#settings.fallback.heldBack(this.#name)) {
      this.isOpen = this.isLive = false;
      this.#open();
      return;
    }
    if (reason === "unanswered") {
      console.warn(
        `mercure: the hub has not answered for ${UNANSWERED / 1000} seconds. Over HTTP/1.1 a browser has six ` +
          "connections to a host, for all of its tabs together",
      );
    }
    if (this.#name === "websocket") this.#again({});
  }

  #opened(requested, { position, isNamed, isMarked, isAdmitted }) {
    clearTimeout(this.#watch);
    if (this.#settings.isForeign()) return; // since it was asked for
    const { access, fallback } = this.#settings;
    fallback.opened(this.#name);
    if (this.#transport.showsTopics) this.#sink.named(isNamed);
    if (this.#isClosed) return;
    if (isAdmitted) access.wasGiven = true;
    else if (isAdmitted === false && access.wasGiven && access.canRenew && !this.#hasRenewed) {
      // The hub lets everybody in, and the cookie is gone: ask whether somebody is signed in.
      this.#again({ status: 401, reason: MISSING });
      return;
    }
    if (requested !== null) {
      const isKnown = position === null || position === requested || requested === EARLIEST;
      if (!isKnown) this.#sink.gap({ reason: "history", requested, resumed: position });
    } else if (this.isLate && !this.#settings.lastValue) {
      // It began with no position, and later than the page, or was cut off before it learned one.
      this.#sink.gap({ reason: "position", requested, resumed: position });
    }
    if (requested === null && position) this.cursor = position;
    this.isOpen = true;
    this.isLate = false;
    this.#hasRenewed = false;
    this.#attempts = 0;
    this.#lastSign = null;
    if (!isMarked) this.#live();
    const opened = moment();
    if (this.#transport.showsBytes && this.#settings.heartbeat > 0) this.#watchSilence(opened);
  }

  /** What comes from now on is new. */
  #live() {
    this.isLive = true;
    this.#sink.state("open", {});
  }

  /** Without a byte since it is open, something buffers; without one for long, the connection is dead. */
  #watchSilence(opened) {
    const { heartbeat } = this.#settings;
    // Hubs send a comment at once.
    const wait = this.#lastSign === null ? Math.min(1.5 * heartbeat, UNANSWERED) : 1.5 * heartbeat;
    this.#watch = setTimeout(() => {
      if (this.#lastSign === null) {
        this.#lastSign = opened;
        if (!this.isLive) this.#live(); // nobody will say when
        const turn = this.#turn;
        this.#heldBack("silent");
        if (turn !== this.#turn) return;
      }
      if (this.#isTooQuiet(3)) this.#again({});
      else this.#watchSilence(opened);
    }, bounded(wait));
  }

  #isTooQuiet(heartbeats) {
    const { heartbeat } = this.#settings;
    const isWatched = this.#transport.showsBytes && heartbeat > 0 && this.#lastSign !== null;
    return isWatched && since(this.#lastSign) > heartbeats * heartbeat;
  }

  async #again({ status, reason, retryAfter, error }) {
    const wasOpen = this.isOpen;
    this.isOpen = this.isLive = false;
    this.isLate = true;
    this.#stop();
    const { access, fallback } = this.#settings;
    if (wasOpen && status === 401) access.wasGiven = true; // it was for a token that it ended
    if (status === 401 && reason) access.why = reason;
    // EventSource does not tell whether it was refused, and what for.
    const isRefused = status === 401 || status === 403 || (!this.#transport.showsStatus && !wasOpen);
    if (isRefused && access.canRenew && !this.#hasRenewed) {
      this.#hasRenewed = true;
      const turn = this.#turn;
      const outcome = await access.renew();
      if (turn !== this.#turn) return;
      if (outcome === "renewed") return void this.#open();
      if (outcome === "refused") status ??= 401;
    }
    if (!wasOpen) fallback.missed(this.#name);
    this.#wait({ status, reason, retryAfter, error });
  }

  /** Until another attempt is made, by itself or because somebody asks for it. */
  #wait({ status, reason, retryAfter, error }) {
    const { access } = this.#settings;
    const isDenied = status === 401 || status === 403;
    // Half of each delay is chance, so that a hub that starts again does not meet all pages at once.
    const most = Math.min(this.#delay * 2 ** this.#attempts++, LONGEST_DELAY);
    const delay = Math.max(bounded(retryAfter), most * (0.5 + Math.random() / 2));
    this.#hasRenewed &&= this.#attempts % 4 !== 0; // once in a while, perhaps somebody signed in again
    // Other credentials come from elsewhere: `wake` tries them.
    this.#isBarred = isDenied && !access.asksThePage && (reason === REVOKED || access.isOver);
    if (!this.#isBarred) this.#timer = setTimeout(() => this.#open(), delay);
    this.#sink.state(isDenied ? "refused" : "offline", {
      status,
      reason,
      error: error?.message,
      until: this.#isBarred ? undefined : Date.now() + delay,
    });
  }
}

/** The token, if the page has one, and what renews it or the cookie, for all streams of the page at once. */
export class Credentials {
  #refresh;
  #lifetime;
  #token;
  #identity;
  #renewed = moment();
  #underWay = null;
  wasGiven = false; // the hub has taken a token of the page
  isOver = false; // and the application has refused another one since
  why = MISSING; // the hub took no other

  /**
   * @param {string | (() => unknown) | null} refresh URL that answers a POST with a cookie or a token, or a function
   * @param {number} lifetime milliseconds after which they are renewed before they are used; 0 for never
   * @param {string | (() => string | Promise<string>) | null} token `null` for a cookie
   * @param {import("./identity.js").Identity} identity
   */
  constructor(refresh, lifetime, token, identity) {
    this.#refresh = refresh;
    this.#lifetime = lifetime;
    this.#token = token;
    this.#identity = identity;
  }

  /** What gives the token for a request; `null` when the cookie is sent. */
  get token() {
    if (this.#token === null || typeof this.#token === "function") return this.#token;
    return () => this.#token;
  }

  /** Whether a function of the page gives each token, the next time perhaps another one. */
  get asksThePage() {
    return typeof this.#token === "function";
  }

  get canRenew() {
    return this.#refresh !== null;
  }

  /** Milliseconds until it should be renewed; `null` for never. */
  get left() {
    return this.canRenew && this.#lifetime > 0 ? Math.max(0, this.#lifetime - since(this.#renewed)) : null;
  }

  isDue() {
    return this.left === 0;
  }

  /** It could not be renewed: not again at once. */
  postpone() {
    const early = this.#lifetime - Math.min(this.#lifetime, LONGEST_DELAY);
    this.#renewed = { wall: Date.now() - early, steady: performance.now() - early };
  }

  /**
   * It was renewed.
   *
   * @param {{token?: string, refreshAfter?: number, identity?: string}} answer what is known of the new one
   */
  note({ token, refreshAfter, identity } = {}) {
    this.#renewed = moment();
    this.#identity.note(identity);
    if (this.#identity.isForeign) return; // it is not for this page
    this.isOver = false;
    this.why = MISSING;
    if (typeof token === "string" && typeof this.#token === "string") this.#token = token;
    if (typeof refreshAfter === "number") this.#lifetime = refreshAfter * 1000;
  }

  /** @returns {Promise<"renewed" | "refused" | "failed">} */
  renew() {
    this.#underWay ??= this.#ask().finally(() => (this.#underWay = null));
    return this.#underWay;
  }

  async #ask() {
    try {
      let answer = await (typeof this.#refresh === "function" ? this.#refresh() : post(this.#refresh));
      if (answer instanceof Response) {
        const { type, status, ok, headers, bodyUsed } = answer;
        if (type === "opaqueredirect" || status === 401 || status === 403) answer = false;
        else if (!ok) return "failed";
        else if (!bodyUsed && headers.get("Content-Type")?.startsWith("application/json")) {
          answer = await answer.json();
        }
      }
      if (answer === false) {
        // Nobody is signed in. A public stream goes on all the same, and need not ask again soon.
        this.#renewed = moment();
        this.isOver = this.wasGiven;
        return "refused";
      }
      this.note(typeof answer === "string" ? { token: answer } : (answer ?? {}));
      return "renewed";
    } catch {
      return "failed";
    }
  }
}

/** Ask a view for a cookie or a token. */
function post(url) {
  return fetch(url, {
    method: "POST",
    headers: { "X-Requested-With": "mercure" }, // no form of another site can send it
    credentials: "include",
    redirect: "manual", // to a login page: signed out
    cache: "no-store",
  });
}
