// A connection to a hub: its topics, who listens to them, and which updates are for whom.

import { Fallback } from "./fallback.js";
import { Feed, Seen } from "./feed.js";
import { Identity } from "./identity.js";
import { Count, Presence } from "./presence.js";
import { reload } from "./reload.js";
import { canShare, hasRoom, SharedFeed } from "./shared_feed.js";
import { Credentials } from "./stream.js";
import { Side, Subscription } from "./subscription.js";
import { isSubset, readTopics, readUrl, topicFilter } from "./topics.js";
import { TRANSPORTS } from "./transports.js";

/** An update. */
export class Update {
  /**
   * @param {{id: string, type: string, data: string}} event
   * @param {string[]} topics those of its topics that the page has subscribed to, as far as somebody tells
   */
  constructor({ id, type, data }, topics = []) {
    this.id = id;
    this.type = type;
    this.data = data;
    this.topics = topics;
  }

  /** The data, parsed as JSON. */
  json() {
    return JSON.parse(this.data);
  }
}

/** Its data, parsed as JSON; `null` where something else was published on a topic of ours. */
export function readJson(update) {
  try {
    return update.json();
  } catch {
    return null;
  }
}

/** Which hubs do not name topics, as the browser remembers. */
class Naming {
  #key;
  isNamed;

  constructor(url, transport) {
    this.#key = `mercure without topics ${url.href}`;
    this.isNamed = TRANSPORTS[transport].showsTopics && !this.#remembered();
  }

  /** @returns {boolean} whether that is news, and bad ones */
  learn(isNamed) {
    const before = this.isNamed;
    try {
      if (isNamed) localStorage.removeItem(this.#key);
      else localStorage.setItem(this.#key, "1");
    } catch {
      // the next page finds out for itself
    }
    this.isNamed &&= isNamed; // for as long as the page lives: its tabs have parted
    return before && !isNamed;
  }

  #remembered() {
    try {
      return localStorage.getItem(this.#key) !== null;
    } catch {
      return false; // the browser gives the page no storage
    }
  }
}

/** Subscribes as `Mercure.subscribe` does, for other parts of this module: each has its own state and position. */
export let follow;

/** Ends the subscription to the topics that it was made with, and subscribes to those of the next page instead. */
export let turnTo;

/** Whether the browser's cookie is that of somebody else than the connection's. */
export let isForeign;

/** Its own events: "state", "gap" and "problem", each with a `detail`. Updates go to `on` and `subscribe`. */
export class Mercure extends EventTarget {
  #settings;
  #options;
  #topicOf;
  #wanted = new Map(); // key of a matcher -> {matcher, count}
  #byType = new Map(); // type -> Set of listeners
  #subscriptions = new Set(); // of listeners to topics
  #beginnings = new Map(); // subscription -> position, until its stream begins there
  #sides = new Set(); // streams beside that of the page
  #round = null; // the one of them with those that catch up
  #hasSettled = false; // the stream of the page has had all topics
  #feed = null;
  #name = "";
  #filter = null; // the topics of this page, where a stream carries those of others too
  #seen = new Seen();
  #naming;
  #changes = 0; // timer
  #abort = new AbortController(); // takes the listeners off the page
  #state = "idle";
  #hasBegun = false; // a stream was open
  #isCrowded = false; // the stream of all tabs has no room for the topics of this one
  #isOver = false; // the feed is that of tabs whose access has ended
  #identity;
  #isForeign = false; // the browser's cookie is that of somebody else
  #detail = {};
  #endPage; // ends the subscription to the page's topics

  static {
    follow = (mercure, topics, options) => mercure.#follow(readTopics(topics), options);
    turnTo = (mercure, topics, lastEventId) => {
      mercure.#endPage();
      mercure.#seen = new Seen(); // what the page before has shown, this one may not have
      mercure.#endPage = topics.length ? mercure.subscribe(topics, null, { lastEventId }) : () => {};
    };
    isForeign = (mercure) => mercure.#checkIdentity();
  }

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
    this.#options = { share: share && !lastValue, lastEventId };
    this.#identity = new Identity(read.url, options.identity, token !== null);
    this.#naming = new Naming(read.url, transport);
    this.#topicOf = topicOf === "type" ? ({ type }) => type : topicOf;
    this.#settings = {
      url: read.url,
      protocol,
      fallback: new Fallback(transport, fallback, token !== null, read.url),
      hearsAllTypes: TRANSPORTS[transport].hearsAllTypes, // the fallback hears them all
      credentials,
      access: new Credentials(refresh, refreshAfter * 1000, token, this.#identity),
      isForeign: () => this.#checkIdentity(),
      lastValue,
      heartbeat: heartbeat * 1000,
      ownTypes: () => this.#byType.keys(),
      types: () => this.#byType.keys(),
    };
    const own = new Map([...readTopics(read.topics), ...readTopics(topics)]);
    this.#count(own, 1);
    this.#endPage = () => {
      this.#count(own, -1);
      this.#changed();
    };
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
   * @param {((update: Update) => void) | null} [listener] gets their updates and no others
   * @param {{lastEventId?: string | null}} [options] the position after which their updates begin; without one they
   *   begin when the hub has heard of it
   * @returns {() => void} ends this subscription
   */
  subscribe(topics, listener = null, { lastEventId = null } = {}) {
    const give = listener
      ? (update) => call(listener, update)
      : lastEventId !== null && ((update) => this.#giveByType(update));
    return this.#follow(readTopics(topics), { give, lastEventId });
  }

  /**
   * Subscribe to a topic, and follow who else has.
   *
   * @param {string} topic an exact one
   * @param {object} [callbacks] `here(people)`, `joining(person, people)`, `leaving(person, people)` and `count(n)`
   * @param {object} [options] `join: false` only looks
   * @returns {() => void} ends it
   */
  presence(topic, callbacks = {}, { join = true } = {}) {
    const followed = new Presence(topic, callbacks, this.#settings);
    const resync = () => followed.resync();
    this.addEventListener("gap", resync);
    const end = this.#followPresence(topic, followed, join);
    return () => {
      this.removeEventListener("gap", resync);
      end();
    };
  }

  /**
   * Subscribe to a topic, and follow how many have.
   *
   * @param {string} topic an exact one
   * @param {(number: number) => void} callback
   * @param {object} [options] `join: false` only looks
   * @returns {() => void} ends it
   */
  presenceCount(topic, callback, { join = true } = {}) {
    return this.#followPresence(topic, new Count(topic, callback, this.#settings), join);
  }

  #followPresence(topic, followed, join) {
    const endings = [
      this.on("mercure", () => {}), // so that EventSource hears the type
      this.#follow(readTopics(followed.events), {
        give: (update) => followed.take(update),
        lastEventId: null,
        onstate: (state) => (state === "closed" ? followed.close() : followed.hear(state === "open")),
      }),
      () => followed.close(),
    ];
    if (join) endings.push(this.subscribe(topic));
    return () => endings.forEach((end) => end());
  }

  /**
   * @param {import("./topics.js").Matchers} matchers
   * @param {{give: ((update: Update) => void) | false, lastEventId: string | null, onstate?: Function}} options
   * @returns {() => void}
   */
  #follow(matchers, { give, lastEventId, onstate = () => {} }) {
    this.#check();
    const { url, protocol } = this.#settings;
    const filter = topicFilter(matchers, url, protocol);
    let subscription = null;
    if (give) {
      const update = (event) => new Update(event, this.#topicsOf(event).filter(filter ?? (() => true)));
      subscription = new Subscription(matchers, filter, (event) => give(update(event)), onstate);
      const isAtHand = !this.#feed && this.#options.lastEventId === lastEventId;
      if (lastEventId !== null && !isAtHand) this.#beginnings.set(subscription, lastEventId);
      this.#subscriptions.add(subscription);
    }
    this.#count(matchers, 1);
    this.#changed();
    return () => {
      if (!matchers || this.#state === "closed") return;
      this.#beginnings.delete(subscription);
      this.#subscriptions.delete(subscription);
      subscription?.close();
      this.#count(matchers, -1);
      matchers = null;
      this.#changed();
    };
  }

  /** The cookie, or the token, has changed: go over to a stream that was opened with it, whosever it is. */
  renewed(token) {
    this.#check();
    const before = this.#identity.own;
    const wasForeign = this.#isForeign;
    const feeds = this.#feeds();
    this.#identity.adopt();
    this.#isForeign = false;
    const { access } = this.#settings;
    if (this.#identity.own !== before) access.wasGiven = false; // that was for another one
    access.note(token === undefined ? {} : { token });
    if (this.#feed && this.#identity.own !== before) this.#apply();
    for (const feed of this.#feeds()) {
      if (wasForeign) feed.wake();
      else if (feeds.includes(feed)) feed.renew(token);
    }
  }

  /**
   * Load the page anew by its address, because updates are missing: not while a form has what was not sent, not
   * twice within 30 seconds, and never what a POST has answered.
   */
  reload() {
    reload(this.#abort.signal);
  }

  /** End everything. */
  close() {
    clearTimeout(this.#changes);
    this.#abort.abort();
    this.#feed?.close();
    this.#feed = null;
    this.#byType.clear();
    const subscriptions = [...this.#subscriptions];
    this.#subscriptions.clear();
    this.#setState("closed", {});
    for (const one of subscriptions) one.end();
  }

  /** All that are open: the page's, and those beside it. */
  #feeds() {
    const sides = [...this.#sides].map(({ feed }) => feed);
    return [this.#feed, ...sides].filter((feed) => feed !== null);
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
    if (this.#checkIdentity()) return;
    if (!this.#feed) this.#begin();
    this.#connect(new Map([...this.#wanted].map(([key, { matcher }]) => [key, matcher])));
    this.#place();
    this.#settle();
  }

  /** Before the first stream: begin where all subscriptions do, if that is one place. */
  #begin() {
    const [first, ...others] = new Set(this.#beginnings.values());
    const counted = [...this.#wanted.values()].reduce((sum, { count }) => sum + count, 0);
    const placed = [...this.#beginnings.keys()].reduce((sum, { matchers }) => sum + matchers.size, 0);
    if (first === undefined || others.length || counted > placed || this.#options.lastEventId !== null) return;
    this.#options.lastEventId = first;
    this.#beginnings.clear();
  }

  #connect(topics) {
    const { share, lastEventId } = this.#options;
    const { url, protocol, access } = this.#settings;
    const isShared = share && canShare();
    this.#filter = topicFilter(topics, url, protocol);
    // Tabs that cannot tell the topic of an update share a stream only when they want the same topics:
    // otherwise one would get what the other has subscribed to.
    // The module's address has its version: tabs of two versions do not understand each other.
    const parts = [import.meta.url, url.href, this.#identity.own];
    if (this.#topicOf) parts.push("topicOf");
    else if (this.#naming.isNamed && this.#filter && !this.#isCrowded) parts.push("topics");
    else parts.push("same topics", ...[...topics.keys()].sort());
    // A page of somebody who has not signed in goes on beside one of somebody who was.
    this.#isOver = access.isOver;
    if (this.#isOver) parts.push("over");
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
      state: (state, detail) => {
        if (!isCurrent()) return;
        this.#setState(state, detail);
        if (state !== "connecting" && access.isOver !== this.#isOver) this.#changed();
        this.#settle();
      },
      gap: (detail) => isCurrent() && this.#gap(detail),
      problem: (detail) => isCurrent() && this.#tell("problem", detail),
      covered: () => isCurrent() && this.#settle(),
      named: (isNamed) => isCurrent() && this.#naming.learn(isNamed) && this.#apply(),
      crowded: () => {
        if (!isCurrent()) return;
        this.#isCrowded = true;
        this.#apply();
      },
    };
    const feed = isShared
      ? new SharedFeed(this.#settings, name, from, cursor, sink)
      : new Feed(this.#settings, from, cursor, sink);
    this.#feed = feed;
    feed.start();
    if (!isSubset(topics, from) || !isSubset(from, topics)) feed.change(topics);
  }

  /** Give those another stream whose updates nobody could tell from others; who begins elsewhere waits for a round. */
  #place() {
    const tells = this.#topicOf !== null || this.#naming.isNamed;
    for (const one of this.#subscriptions) {
      one.isPlaced = true;
      const canReturn = isSubset(this.#wanted, one.matchers) || (tells && one.canTell);
      const isInRound = one.side !== null && one.side === this.#round;
      if (canReturn || (one.side && !isInRound)) continue;
      const beginning = this.#beginnings.get(one) ?? (isInRound ? this.#round.position : null);
      this.#beginnings.delete(one);
      const side = [...this.#sides].find((side) => side !== this.#round && side.fits(one.matchers, beginning));
      if (side) one.begin(side, false);
      else this.#beside([one], one.matchers, beginning ?? this.#feed.cursor, false);
    }
  }

  /**
   * Have those catch up that begin where the first of them does, with one stream; then the next ones.
   *
   * The order of two ids cannot be told from them. Over HTTP/1.1 a browser has six connections to a host.
   */
  #catchUp() {
    if (this.#round) return;
    const waiting = [...this.#beginnings].filter(([one]) => one.isPlaced);
    // Until the page has said all, its own stream changes, and is two of them meanwhile.
    this.#hasSettled ||= isParsed() && this.#state === "open" && isSubset(this.#wanted, this.#feed.covered);
    if (!waiting.length || !this.#hasSettled) return;
    const [[, position]] = waiting;
    const members = [];
    let topics = new Map();
    for (const [one, beginning] of waiting) {
      const all = new Map([...topics, ...one.matchers]);
      if (beginning !== position || (members.length && !hasRoom(all))) continue;
      topics = all;
      members.push(one);
      this.#beginnings.delete(one);
    }
    this.#beside(members, topics, position, true);
  }

  #beside(members, topics, position, isRound) {
    const side = new Side(this.#settings, topics, position, (event) => this.#topicsOf(event), {
      gap: (detail) => this.#gap(detail),
      problem: (detail) => this.#tell("problem", detail),
      named: (isNamed) => this.#naming.learn(isNamed) && this.#apply(),
      changed: () => this.#settle(),
      left: (side) => {
        this.#sides.delete(side);
        if (side === this.#round) this.#round = null;
        this.#settle();
      },
    });
    this.#sides.add(side);
    if (isRound) this.#round = side;
    for (const one of members) one.begin(side, isRound);
    side.feed.start();
  }

  #settle() {
    if (!this.#feed && !this.#isForeign) return;
    if (this.#feed) this.#catchUp();
    const covered = this.#feed?.covered ?? new Map();
    for (const one of [...this.#subscriptions]) {
      one.settle(this.#state, this.#detail, covered, this.#beginnings.has(one));
    }
  }

  #retype() {
    for (const feed of this.#feeds()) {
      if (feed instanceof SharedFeed) feed.retype();
      else feed.renew();
    }
  }

  #deliver(event) {
    const { covered } = this.#feed;
    const isOwn = !this.#topicOf && isSubset(covered, this.#wanted);
    let topics = this.#topicsOf(event);
    if (topics.length === 0 && !isOwn) {
      this.#tell("problem", { reason: "no-topic", id: event.id });
      return;
    }
    if (!isOwn) {
      topics = topics.filter(this.#filter ?? (() => true));
      if (topics.length === 0) return; // for another tab
    }
    const receivers = [...this.#subscriptions].filter(
      (one) => !this.#beginnings.has(one) && one.selects(topics, covered),
    );
    this.#giveByType(new Update(event, topics), event);
    for (const one of receivers) one.take(event);
  }

  #giveByType(update, event = update) {
    if (!this.#seen.add(event)) return;
    for (const listener of [...(this.#byType.get(update.type) ?? [])]) call(listener, update);
  }

  /** The topics of an update, as far as somebody tells. */
  #topicsOf(event) {
    if (!this.#topicOf) return event.topics;
    try {
      const update = new Update(event);
      // The hub's own updates, about subscriptions, name their topic in their way.
      const found = update.type === "mercure" ? update.json().id : this.#topicOf(update);
      return (Array.isArray(found) ? found : [found]).filter((topic) => typeof topic === "string");
    } catch (error) {
      reportError(error);
      return [];
    }
  }

  #gap(detail) {
    const isStart = !this.#hasBegun && detail.reason === "history";
    if (isStart) {
      console.warn(
        `mercure: the hub does not have the update ${detail.requested}, after which this page begins: take ` +
          "last_event_id from mercure.last_event_id(), in the view and before its data",
      );
    }
    const told = isStart ? { ...detail, reason: "start" } : detail;
    const gap = new CustomEvent("gap", { detail: told, cancelable: true });
    const ofPage = new CustomEvent("mercure:gap", { detail: told, cancelable: true });
    if (!document.dispatchEvent(ofPage)) gap.preventDefault();
    this.dispatchEvent(gap);
  }

  #setState(state, detail) {
    if (state === this.#state && state !== "offline") return;
    this.#state = state;
    this.#detail = detail;
    if (state === "open") this.#hasBegun = true;
    this.#tell("state", { ...detail, state });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** Come back from wherever the page was: without network, in the background, in the back/forward cache. */
  #watchPage() {
    const { signal } = this.#abort;
    const wake = () => {
      if (!this.#checkIdentity()) this.#feeds().forEach((feed) => feed.wake());
      else if (document.visibilityState === "visible") this.#askWhose();
    };
    const close = () => this.#feeds().forEach((feed) => feed.close());
    document.addEventListener("DOMContentLoaded", () => this.#settle(), { signal });
    window.addEventListener("online", wake, { signal });
    window.addEventListener("offline", () => this.#feeds().forEach((feed) => feed.doubt()), { signal });
    window.addEventListener("pageshow", wake, { signal });
    document.addEventListener("resume", wake, { signal });
    document.addEventListener("visibilitychange", wake, { signal });
    // A page that is put away holds no stream, and no lock: another tab leads.
    window.addEventListener("pagehide", close, { signal });
    document.addEventListener("freeze", close, { signal });
    this.#identity.watch(() => this.#checkIdentity(), signal);
  }

  /**
   * Stop while the browser's cookie is that of somebody else, and go on when it is not any more.
   *
   * @returns {boolean} whether it is
   */
  #checkIdentity() {
    const { isForeign } = this.#identity;
    if (isForeign === this.#isForeign || this.#state === "closed") return this.#isForeign;
    this.#isForeign = isForeign;
    if (isForeign) {
      for (const feed of this.#feeds()) feed.close();
      const reason = this.#identity.isNobody ? this.#settings.access.why : "identity-changed";
      this.#setState("refused", { status: 401, reason });
      this.#settle();
      this.#askWhose();
    } else {
      this.#apply();
      for (const feed of this.#feeds()) feed.wake();
    }
    return isForeign;
  }

  /** Have the app say who is signed in, where nobody seems to be or the cookie cannot tell. */
  async #askWhose() {
    const { access } = this.#settings;
    if (!access.canRenew || !this.#identity.isUnsure) return;
    await access.renew();
    this.#checkIdentity();
  }
}

/** Whether the page is there, and the scripts have run that it waits for: its elements have said what they want. */
function isParsed() {
  const [navigation] = performance.getEntriesByType("navigation");
  return document.readyState === "complete" || !navigation || navigation.domContentLoadedEventStart > 0;
}

/** A listener that fails keeps no other from its update. */
function call(listener, update) {
  try {
    listener(update);
  } catch (error) {
    reportError(error);
  }
}
