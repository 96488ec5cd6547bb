// A subscription whose topics can change while events arrive: nothing is lost, nothing comes twice.

import { isSubset } from "./topics.js";
import { Stream, bounded } from "./stream.js";

export const REMEMBERED = 2000; // ids
const QUIET = 1000; // milliseconds without an event after which nothing is on its way any more
const LONGEST = 10_000;

/** The id of an event, if it is its own: one without is in no history, and does not come again. */
const ownId = ({ id, hasId = true }) => (hasId ? id : "");

/** The last ids, so that what comes again is recognised. */
export class Seen {
  #ids = new Set();

  /** Note an event; false when it came before. One without an id is always new. */
  add(event) {
    const id = ownId(event);
    if (!id) return true;
    if (this.#ids.has(id)) return false;
    this.#ids.add(id);
    if (this.#ids.size > REMEMBERED) this.#ids.delete(this.#ids.values().next().value);
    return true;
  }
}

/**
 * Changes over from one source of events to another that runs already.
 *
 * The order of two ids cannot be told from them. But once both sources have given the same event, the new
 * one has all that comes after it, and the old one has given all that came before. When nothing comes, the
 * same holds after a moment in which both were open. Until then the new one's events wait.
 */
export class Handover {
  #deliver;
  #done;
  #most;
  #waiting = new Map(); // id -> event, of the new source
  #given = new Set(); // ids, of the old one
  #timer = 0;
  #deadline = 0; // timer
  #isReady = false;

  /**
   * @param {(event: object) => void} deliver may be called twice with an event
   * @param {() => void} done the old source is not needed any more
   * @param {number} most events of the new source that are kept, where the old one is going to give all before those
   */
  constructor(deliver, done, most = Infinity) {
    this.#deliver = deliver;
    this.#done = done;
    this.#most = most;
  }

  fromOld(event) {
    this.#deliver(event);
    const id = ownId(event);
    if (id) this.#given.add(id);
    if (this.#waiting.has(id)) this.#finish();
    else if (this.#isReady) this.#arm();
  }

  fromNew(event) {
    const id = ownId(event);
    this.#waiting.set(id || Symbol("no id"), event);
    if (this.#waiting.size > this.#most) this.#waiting.delete(this.#waiting.keys().next().value);
    if (this.#given.has(id)) this.#finish();
  }

  /** The new source is open: from now on it does not wait for ever. */
  begin() {
    this.#deadline ||= setTimeout(() => this.#finish(), LONGEST);
  }

  /** Whether both are open now. */
  ready(isReady) {
    if (isReady === this.#isReady) return;
    this.#isReady = isReady;
    if (isReady) this.#arm();
    else clearTimeout(this.#timer);
  }

  cancel() {
    clearTimeout(this.#timer);
    clearTimeout(this.#deadline);
    this.#done = null;
  }

  #arm() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#finish(), QUIET);
  }

  #finish() {
    const done = this.#done;
    if (done === null) return;
    this.cancel();
    done();
    for (const event of this.#waiting.values()) this.#deliver(event);
  }
}

/** The sink's methods: those of a stream's, and `covered()` when `covered` has changed. */
export class Feed {
  #settings;
  #sink;
  #seen = new Seen();
  #wanted;
  #cursor; // before there is a stream
  #renewal = 0; // timer
  #isAway = false;
  #stream = null;
  #next = null; // the stream that will follow it
  #handover = null;
  #isStale = false; // that one was opened before the credentials changed
  #state = "idle";
  #isLate;

  /**
   * @param {import("./stream.js").Settings} settings
   * @param {import("./topics.js").Matchers} topics
   * @param {string | null} cursor
   * @param {object} sink
   * @param {boolean} isLate as of a stream
   */
  constructor(settings, topics, cursor, sink, isLate = false) {
    this.#isLate = isLate;
    this.#settings = settings;
    this.#sink = sink;
    this.#wanted = topics;
    this.#cursor = cursor;
  }

  /** Called once, when the sink can take what comes. */
  start() {
    this.#isAway = false;
    this.#start(this.#wanted, this.#cursor);
    this.#schedule();
  }

  /** Matchers of the stream that events come from. */
  get covered() {
    return this.#stream?.topics ?? new Map();
  }

  /** Id of the last event of that stream. */
  get cursor() {
    return this.#stream?.cursor ?? this.#cursor;
  }

  /** Whether it has caught up with the hub. */
  get isLive() {
    return Boolean(this.#stream?.isLive);
  }

  /** Change the topics. */
  change(topics) {
    this.#wanted = topics;
    const running = this.#next ?? this.#stream;
    if (running && running.topics.size === topics.size && isSubset(topics, running.topics)) return;
    // One that is open may hold events that nobody else has: wait until it has taken over.
    if (this.#next?.isOpen) return;
    this.#follow();
  }

  /** Open the stream again, with the credentials of now. */
  renew() {
    if (this.#next?.isOpen) this.#isStale = true;
    else this.#follow();
  }

  wake() {
    if (this.#isAway) this.start();
    this.#stream?.wake();
    this.#next?.wake();
  }

  doubt() {
    this.#stream?.doubt();
    this.#next?.doubt();
  }

  /** Stop, for good or until `wake` comes. */
  close() {
    clearTimeout(this.#renewal);
    this.#isAway = this.#isLate = true;
    this.#cursor = this.cursor;
    this.#handover?.cancel();
    this.#stream?.close();
    this.#next?.close();
    this.#stream = this.#next = this.#handover = null;
  }

  /** Renew the cookie before it ends, and change over to a stream that has the new one. */
  #schedule() {
    const { access } = this.#settings;
    if (access.left === null) return;
    this.#renewal = setTimeout(async () => {
      if (!access.isDue()) return void this.#schedule();
      const outcome = await access.renew();
      if (this.#isAway) return;
      if (outcome === "renewed") this.renew();
      else if (outcome === "failed") access.postpone();
      this.#schedule();
    }, bounded(access.left));
  }

  #start(topics, cursor) {
    if (topics.size === 0) {
      this.#tell("idle", {});
      this.#sink.covered();
      return;
    }
    const sink = this.#sinkOf(() => stream);
    const stream = (this.#stream = new Stream(this.#settings, topics, cursor, sink, this.#isLate));
    stream.start();
    this.#sink.covered();
  }

  #follow() {
    this.#handover?.cancel();
    this.#next?.close();
    this.#next = this.#handover = null;
    this.#isStale = false;
    const old = this.#stream;
    const topics = this.#wanted;
    if (!old || topics.size === 0 || (!old.isOpen && old.cursor === null)) {
      old?.close();
      this.#isLate = Boolean(old?.isLate);
      this.#stream = null;
      this.#start(topics, null);
      return;
    }
    // What the old one has can be asked for with its cursor. New topics begin now: their older events
    // are in the page, or nobody wants them.
    const cursor = isSubset(topics, old.topics) ? old.cursor : null;
    const next = new Stream(this.#settings, topics, cursor, this.#sinkOf(() => next));
    this.#next = next;
    this.#handover = new Handover(
      (event) => this.#deliver(event),
      () => {
        const isLive = next.isLive || (old.isLive && next.isOpen); // what it still repeats is there already
        old.close();
        next.cursor ??= old.cursor;
        this.#stream = next;
        this.#next = this.#handover = null;
        this.#tell(isLive ? "open" : "connecting", {});
        this.#sink.covered();
        if (this.#isStale) this.#follow();
        else if (this.#wanted !== topics) this.change(this.#wanted);
      },
    );
    next.start();
  }

  #sinkOf(get) {
    return {
      event: (event) => {
        const stream = get();
        if (!this.#handover) this.#deliver(event);
        else if (stream === this.#next) this.#handover.fromNew(event);
        else this.#handover.fromOld(event);
      },
      state: (state, detail) => {
        const stream = get();
        if (this.#handover) {
          if (state === "open" && stream === this.#next) this.#handover.begin();
          this.#handover.ready(this.#stream.isLive && this.#next.isLive);
          if (state === "open") this.#stream.wake(); // the other one need not wait, if it does
        }
        if (stream === this.#next) return; // heard of when it takes over
        this.#tell(state, detail);
      },
      gap: (detail) => this.#sink.gap(detail),
      problem: (detail) => this.#sink.problem(detail),
      named: (isNamed) => this.#sink.named(isNamed),
    };
  }

  #tell(state, detail) {
    if (state === this.#state && state !== "offline") return;
    this.#state = state;
    this.#sink.state(state, detail);
  }

  #deliver(event) {
    if (this.#seen.add(event)) this.#sink.event(event);
  }
}
