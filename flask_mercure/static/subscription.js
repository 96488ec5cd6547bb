// What one listener gets: the updates of its topics, from the position where it begins.

import { Feed, Handover, REMEMBERED, Seen } from "./feed.js";
import { isSubset } from "./topics.js";

/** A stream beside the shared one, for subscriptions that begin at one position. */
export class Side {
  #members = new Set();
  #topicsOf;
  #sink;
  #hasGiven = false;
  matchers;
  position;
  feed;
  state = ["connecting", {}];

  /**
   * @param {import("./stream.js").Settings} settings
   * @param {import("./topics.js").Matchers} matchers of all that will `add` themselves
   * @param {string | null} position after which it begins
   * @param {(event: object) => string[]} topicsOf an event, as far as somebody tells
   * @param {object} sink `gap`, `problem` and `named` as of a feed; `changed` when those who take from it may be
   *   `settle`d; `left` when nobody does any more
   */
  constructor(settings, matchers, position, topicsOf, sink) {
    this.matchers = matchers;
    this.position = position;
    this.#topicsOf = topicsOf;
    this.#sink = sink;
    this.feed = new Feed(settings, matchers, position, {
      event: (event) => this.#give(event),
      state: (...state) => {
        this.state = state;
        sink.changed();
      },
      gap: sink.gap,
      problem: sink.problem,
      named: sink.named,
      covered: () => {},
    });
  }

  /** Whether a subscription to these topics, from that position on, would miss nothing here. */
  fits(matchers, position) {
    const isSame = isSubset(matchers, this.matchers) && isSubset(this.matchers, matchers);
    return isSame && (position === null || (position === this.position && !this.#hasGiven));
  }

  add(subscription) {
    this.#members.add(subscription);
  }

  leave(subscription) {
    if (!this.#members.delete(subscription) || this.#members.size) return;
    this.feed.close();
    this.#sink.left(this);
  }

  #give(event) {
    this.#hasGiven = true;
    const topics = this.#topicsOf(event);
    const receivers = [...this.#members].filter(
      (one) => isSubset(this.matchers, one.matchers) || (topics.length && one.selects(topics, this.matchers)),
    );
    if (!topics.length && !receivers.length) this.#sink.problem({ reason: "no-topic", id: event.id });
    for (const one of receivers) one.takeAside(event);
  }
}

/**
 * Takes its updates from the stream that it shares with others. It takes them from another while it catches up with
 * that, and for as long as nobody can tell which of the shared stream's updates are its own.
 */
export class Subscription {
  matchers;
  isPlaced = false; // the shared stream has been asked for its topics
  #filter;
  #give;
  #onstate;
  #state = "";
  #until;
  #seen = new Seen();
  #side = null; // where its updates come from, unless that is the shared stream
  #handover = null; // to the shared stream

  /**
   * @param {import("./topics.js").Matchers} matchers
   * @param {((topic: string) => boolean) | null} filter tells its topics; `null` when only the hub can
   * @param {(event: object) => void} give
   * @param {(state: string, detail: object) => void} onstate
   */
  constructor(matchers, filter, give, onstate) {
    this.matchers = matchers;
    this.#filter = filter;
    this.#give = give;
    this.#onstate = onstate;
  }

  /** Whether the topics of an update suffice to tell whether it is for this one. */
  get canTell() {
    return this.#filter !== null;
  }

  /** The stream beside the shared one from which it takes its updates; `null` if there is none. */
  get side() {
    return this.#side;
  }

  /**
   * Whether an update is for this one.
   *
   * @param {string[]} topics of the update; empty when they are not known
   * @param {import("./topics.js").Matchers} covered by the stream that it came from
   */
  selects(topics, covered) {
    return topics.length && this.#filter ? topics.some(this.#filter) : isSubset(covered, this.matchers);
  }

  /** An event of the shared stream that is for this one. */
  take(event) {
    if (this.#handover) this.#handover.fromNew(event);
    else if (!this.#side) this.#deliver(event);
  }

  /** An event of the stream beside that one. */
  takeAside(event) {
    if (this.#handover) this.#handover.fromOld(event);
    else this.#deliver(event);
  }

  /**
   * Begin with another stream than the shared one.
   *
   * @param {Side} side
   * @param {boolean} returns to the shared stream, when it has caught up
   */
  begin(side, returns) {
    this.#leave();
    this.#side = side;
    if (returns) this.#handover = new Handover((event) => this.#deliver(event), () => this.#leave(), REMEMBERED);
    side.add(this);
  }

  /** Told how the shared stream is, and whether this one still waits for another. */
  settle(state, detail, covered, waits) {
    if (!this.isPlaced) return;
    const isThere = state === "open" && isSubset(this.matchers, covered);
    if (this.#handover) {
      const isReady = isThere && this.#side.feed.isLive;
      if (isReady) this.#handover.begin(); // not before: nobody else has what the other stream still has to give
      this.#handover.ready(isReady);
    }
    if (this.#side) this.#tell(...this.#side.state);
    else this.#tell(state === "open" && (waits || !isThere) ? "connecting" : state, detail);
  }

  /** The connection has ended, and with it this one. */
  end() {
    this.#tell("closed", {});
    this.close();
  }

  close() {
    this.#leave();
    this.#give = this.#onstate = () => {};
  }

  #leave() {
    const side = this.#side;
    this.#handover?.cancel();
    this.#side = this.#handover = null;
    side?.leave(this);
  }

  #tell(state, detail) {
    if (state === this.#state && (state !== "offline" || detail.until === this.#until)) return;
    this.#state = state;
    this.#until = detail.until;
    this.#onstate(state, detail);
  }

  #deliver(event) {
    if (this.#seen.add(event)) this.#give(event);
  }
}
