// One stream for all tabs of a browser: one tab leads and has it, the others hear from that one.
//
// The leader is who holds a Web Lock; the browser gives it to the next tab when the leader closes or
// crashes. Events go to the others over a BroadcastChannel. A SharedWorker would do as well, but Chromium on
// Android has had none for years, and it would need an address of its own in each Content-Security-Policy.

import { Feed, Handover, REMEMBERED, Seen } from "./feed.js";
import { isSubset } from "./topics.js";

const TOGETHER = 50; // milliseconds in which changes are put together
const CHECK = 10_000; // milliseconds between two looks at the leader
const PATIENCE = 3000; // milliseconds it has for an answer
const MOST_MATCHERS = 90; // in one request; hubs refuse more than a hundred, or a URL that is too long
const MOST_CHARACTERS = 6000;
const DROWSY = 240_000; // milliseconds in the background; after 300,000 browsers stretch timers to a minute

export const canShare = () => Boolean(navigator.locks) && typeof BroadcastChannel === "function";

/** Has the methods and the sink of a `Feed`; the sink's `crowded()`: there is no room for this tab's topics. */
export class SharedFeed {
  #settings;
  #name;
  #sink;
  #topics;
  #me = "";
  #seen = new Seen();
  #channel = null;
  #abort = null; // takes back the requests for locks
  #isPresent = false;
  #hasPart = false; // it is known whether this tab leads: until then it hears nobody who does
  #members = new Map(); // id of a tab -> {topics, types}
  #group = nobody();
  #heard = 0; // when the leader was
  #hiddenSince = 0;
  #lead = null; // the feed, when this tab leads
  #release = null; // gives the leadership up
  #own = null; // a feed of this tab alone, until it has caught up with the others
  #ownState = ["connecting", {}];
  #boarding = null;
  #start; // where this tab begins: {topics, cursor}
  #isLate = false; // it was here before, and away
  #subscribedTypes = null;
  #timers = new Set();
  #pending = 0;

  /**
   * @param {import("./stream.js").Settings} settings
   * @param {string} name that all tabs have which share the stream
   * @param {import("./topics.js").Matchers} topics
   * @param {string | null} cursor
   * @param {object} sink
   */
  constructor(settings, name, topics, cursor, sink) {
    this.#settings = { ...settings, types: () => this.#types() };
    this.#name = name;
    this.#topics = topics;
    this.#start = { topics, cursor };
    this.#sink = sink;
  }

  start() {
    this.#join();
  }

  get covered() {
    return this.#own?.covered ?? this.#group.covered;
  }

  get cursor() {
    return this.#own?.cursor ?? this.#group.cursor ?? this.#start.cursor;
  }

  change(topics) {
    this.#topics = topics;
    this.#own?.change(topics);
    this.#introduce();
    this.#tellState();
  }

  /** A type is listened to that was not before. */
  retype() {
    this.#own?.renew();
    this.#introduce();
  }

  renew(token) {
    this.#own?.renew();
    if (this.#lead) this.#lead.renew();
    else this.#post({ kind: "renewed", token });
  }

  wake() {
    if (!this.#channel) {
      this.#join();
      return;
    }
    this.#own?.wake();
    this.#lead?.wake();
    this.#check();
  }

  doubt() {
    this.#own?.doubt();
    this.#lead?.doubt();
  }

  /** Leave the others: the page is closed, or put away for a while; `wake` comes back. */
  close() {
    if (!this.#channel) return;
    const { cursor, covered } = this;
    this.#start = { topics: cursor === null ? this.#topics : covered, cursor };
    this.#isLate = true;
    this.#post({ kind: "leave" });
    this.#channel.close();
    this.#channel = null;
    this.#abort.abort();
    this.#boarding?.cancel();
    this.#own?.close();
    this.#lead?.close();
    this.#release?.();
    this.#own = this.#boarding = this.#lead = this.#release = null;
    clearTimeout(this.#pending);
    for (const timer of this.#timers) clearInterval(timer);
    this.#timers.clear();
    this.#members.clear();
  }

  // -- who is there -------------------------------------------------------------------------------

  #join() {
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#receive(data);
    this.#abort = new AbortController();
    this.#heard = 0;
    this.#group = nobody();
    this.#hasPart = false;
    // The leader waits for this lock too: it gets it when the tab is gone, whether or not that said so.
    this.#me = randomId();
    this.#isPresent = false;
    const { signal } = this.#abort;
    const left = new Promise((resolve) => signal.addEventListener("abort", resolve));
    this.#hold(`${this.#name} ${this.#me}`, { signal }, () => {
      if (signal.aborted) return undefined;
      this.#isPresent = true;
      this.#introduce();
      return left;
    });
    const channel = this.#channel;
    this.#hold(this.#name, { ifAvailable: true }, (lock) => {
      if (channel !== this.#channel) return undefined;
      return lock ? this.#takeOver() : this.#follow();
    });
    this.#timers.add(setInterval(() => this.#check(), CHECK));
    this.#tellState();
  }

  /** Ask for a lock; a request that is taken back, or a lock that is stolen, is no error. */
  #hold(name, options, action) {
    const channel = this.#channel;
    navigator.locks.request(name, options, action).catch((error) => {
      if (error.name !== "AbortError") throw error;
      if (channel !== this.#channel || name !== this.#name || !this.#lead) return;
      // Another tab has not heard of this one for long: it slept. Come back as one of many.
      this.#release = null;
      this.close();
      this.#join();
    });
  }

  #follow() {
    this.#hasPart = true;
    const channel = this.#channel;
    const take = () => (channel === this.#channel && !this.#lead ? this.#takeOver() : undefined);
    this.#hold(this.#name, { signal: this.#abort.signal }, take);
    if (this.#start.cursor !== null) this.#board();
    else if (this.#isLate && this.#topics.size) {
      this.#sink.gap({ reason: "position", requested: null, resumed: null });
    }
    this.#introduce(); // the leader answers, and now that is listened to
    this.#check();
  }

  /** Begin where this tab's page begins, with a stream of its own, and catch up with the others. */
  #board() {
    const { topics, cursor } = this.#start;
    this.#boarding = new Handover(
      (event) => this.#deliver(event),
      () => {
        const own = this.#own;
        this.#own = this.#boarding = null;
        own.close();
        this.#tellState();
        this.#sink.covered();
      },
      REMEMBERED,
    );
    this.#own = new Feed(this.#settings, topics, cursor, {
      event: (event) => this.#boarding?.fromOld(event),
      state: (state, detail) => {
        this.#ownState = [state, detail];
        this.#tellState();
      },
      gap: (detail) => this.#sink.gap(detail),
      problem: (detail) => this.#sink.problem(detail),
      named: (isNamed) => this.#sink.named(isNamed),
      covered: () => this.#sink.covered(),
    });
    this.#own.start();
    this.#own.change(this.#topics);
  }

  /** Lead. The stream begins after what this tab has heard from the leader before. */
  #takeOver() {
    this.#hasPart = true;
    const { epoch, cursor, covered } = this.#group;
    this.#group.epoch = epoch + 1;
    if (this.#own && cursor === null) {
      // There was a leader, and nothing was heard of it: what this tab has alone is the stream.
      this.#start = { topics: this.#own.covered, cursor: this.#own.cursor };
      this.#boarding.cancel();
      this.#own.close();
      this.#own = this.#boarding = null;
    }
    const begin = cursor === null ? this.#start : { topics: covered, cursor };
    const sink = {
      event: (event) => {
        this.#group.cursor = lead.cursor;
        this.#post({ kind: "event", event });
        this.#fromGroup(event);
      },
      state: (state, detail) => {
        this.#group = { ...this.#group, state, detail };
        this.#announce();
      },
      covered: () => this.#announce(),
      gap: (detail) => {
        this.#post({ kind: "gap", detail });
        this.#sink.gap(detail);
      },
      problem: (detail) => {
        this.#post({ kind: "problem", detail });
        this.#sink.problem(detail);
      },
      named: (isNamed) => {
        this.#post({ kind: "named", isNamed });
        this.#sink.named(isNamed);
      },
    };
    const isLate = this.#isLate || epoch > 0;
    const lead = (this.#lead = new Feed(this.#settings, begin.topics, begin.cursor, sink, isLate));
    lead.start();
    this.#post({ kind: "who" });
    for (const id of this.#members.keys()) this.#watch(id);
    this.#adapt();
    return new Promise((release) => (this.#release = release));
  }

  /** Whether the leader answers. A page that is looked at puts up with none that sleeps, or is about to. */
  #check() {
    if (document.visibilityState === "visible") this.#hiddenSince = 0;
    else this.#hiddenSince ||= Date.now();
    if (this.#lead || this.#hiddenSince) return;
    const asked = Date.now();
    const channel = this.#channel;
    this.#post({ kind: "ping" });
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      if (this.#lead || channel !== this.#channel) return;
      if (this.#heard >= asked && this.#group.hiddenFor < DROWSY) return;
      const take = () => (channel === this.#channel && !this.#lead ? this.#takeOver() : undefined);
      this.#hold(this.#name, { steal: true }, take);
    }, PATIENCE);
    this.#timers.add(timer);
  }

  /** Forget a tab when it is gone. */
  #watch(id) {
    this.#hold(`${this.#name} ${id}`, { signal: this.#abort.signal }, () => {
      this.#members.delete(id);
      this.#adapt();
    });
  }

  // -- messages -----------------------------------------------------------------------------------

  #post(message) {
    this.#channel?.postMessage({ ...message, from: this.#me, epoch: this.#group.epoch });
  }

  #introduce() {
    if (this.#isPresent) {
      this.#post({ kind: "join", topics: [...this.#topics], types: [...this.#settings.ownTypes()] });
    }
    this.#adapt();
  }

  #announce() {
    const { covered, cursor } = this.#lead;
    this.#group = { ...this.#group, covered, cursor };
    const { state, detail } = this.#group;
    const hiddenFor = this.#hiddenSince && Date.now() - this.#hiddenSince;
    const socketsUntil = this.#settings.fallback.until;
    const { wasGiven, isOver, why } = this.#settings.access;
    const access = { wasGiven, isOver, why };
    this.#post({ kind: "state", state, detail, covered: [...covered], cursor, hiddenFor, socketsUntil, access });
    this.#tellState();
    this.#sink.covered();
  }

  #receive(message) {
    switch (message.kind) {
      case "join":
        if (this.#lead && !this.#members.has(message.from)) this.#watch(message.from);
        this.#members.set(message.from, { topics: message.topics, types: message.types });
        if (this.#lead) {
          this.#announce();
          this.#adapt();
        }
        return;
      case "leave":
        this.#members.delete(message.from);
        if (this.#lead) this.#adapt();
        return;
      case "ping":
        if (this.#lead) this.#announce();
        return;
      case "renewed":
        this.#settings.access.note({ token: message.token });
        this.#lead?.renew();
        return;
      case "who":
        this.#introduce();
    }
    // What follows comes from a leader. One that was replaced while it slept may not know it yet.
    if (message.epoch < this.#group.epoch || this.#lead) return;
    this.#heard = Date.now();
    this.#group.epoch = message.epoch;
    if (!this.#hasPart) return; // it may have to catch up first
    switch (message.kind) {
      case "event":
        this.#group.cursor = message.event.id || this.#group.cursor;
        this.#fromGroup(message.event);
        return;
      case "state":
        this.#settings.fallback.adopt(message.socketsUntil);
        Object.assign(this.#settings.access, message.access);
        this.#group = {
          epoch: message.epoch,
          covered: new Map(message.covered),
          cursor: message.cursor,
          state: message.state,
          detail: message.detail,
          hiddenFor: message.hiddenFor,
        };
        this.#tellState();
        this.#sink.covered();
        return;
      case "gap":
        if (!this.#own) this.#sink.gap(message.detail);
        return;
      case "problem":
        this.#sink.problem(message.detail);
        return;
      case "named":
        this.#sink.named(message.isNamed);
        return;
      case "crowded":
        if (message.to === this.#me) this.#sink.crowded();
    }
  }

  // -- what the leader does -----------------------------------------------------------------------

  /** Subscribe to what all tabs want, when no more changes come for a moment. */
  #adapt() {
    clearTimeout(this.#pending);
    if (!this.#lead) return;
    this.#pending = setTimeout(() => {
      if (!this.#lead) return;
      const { hearsAllTypes } = this.#settings;
      const types = [...this.#types()].sort().join("\n");
      const isDeaf = !hearsAllTypes && this.#subscribedTypes !== null && types !== this.#subscribedTypes;
      this.#subscribedTypes = types;
      let wanted = new Map(this.#topics);
      for (const [to, { topics }] of this.#members) {
        const all = new Map([...wanted, ...topics]);
        if (all.size === wanted.size || hasRoom(all)) wanted = all;
        else this.#post({ kind: "crowded", to });
      }
      this.#lead.change(wanted);
      if (isDeaf) this.#lead.renew();
    }, TOGETHER);
  }

  #types() {
    const others = [...this.#members.values()].flatMap(({ types }) => types);
    return new Set([...this.#settings.ownTypes(), ...others]);
  }

  // -- what this tab hears ------------------------------------------------------------------------

  #fromGroup(event) {
    if (this.#boarding) this.#boarding.fromNew(event);
    else this.#deliver(event);
  }

  #deliver(event) {
    if (this.#seen.add(event)) this.#sink.event(event);
  }

  #tellState() {
    const { covered, state, detail } = this.#group;
    const isCovered = isSubset(this.#topics, covered);
    if (this.#own) {
      const isReady = this.#own.isLive && isCovered && state === "open";
      if (isReady) this.#boarding.begin(); // not before: nobody else has what its own stream still has to give
      this.#boarding.ready(isReady);
      this.#sink.state(...this.#ownState);
    } else if (this.#topics.size === 0) this.#sink.state("idle", {});
    else this.#sink.state(isCovered || state !== "open" ? state : "connecting", detail);
  }
}

/** Whether one request can have these topics. */
export function hasRoom(topics) {
  const characters = [...topics.values()].reduce((sum, { value }) => sum + encodeURIComponent(value).length + 20, 0);
  return topics.size <= MOST_MATCHERS && characters <= MOST_CHARACTERS;
}

/** What is known of the others before one of them says something. */
function nobody() {
  return { epoch: 0, covered: new Map(), cursor: null, state: "connecting", detail: {}, hiddenFor: 0 };
}

/** crypto.randomUUID exists in secure contexts only, like locks; this does everywhere. */
function randomId() {
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(36)).join("");
}
