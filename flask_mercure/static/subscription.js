// What one listener gets: the updates of its topics, from the position where it begins.

import { Feed, Handover, REMEMBERED, Seen } from "./feed.js";
import { isSubset } from "./topics.js";

/**
 * Takes its updates from the stream that it shares with others. It has one of its own while it catches up with them,
 * and for as long as nobody can tell which of the shared stream's updates are its own.
 */
export class Subscription {
  matchers;
  isPlaced = false; // it is known whether it has a stream of its own
  #filter;
  #give;
  #onstate;
  #state = "";
  #until;
  #seen = new Seen();
  #own = null; // a feed
  #ownState = ["connecting", {}];
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

  /** Whether it takes nothing from the shared stream, now and later. */
  get isApart() {
    return this.#own !== null && this.#handover === null;
  }

  /** The feed that it has for itself; `null` if there is none. */
  get own() {
    return this.#own;
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
    else if (!this.#own) this.#deliver(event);
  }

  /**
   * Begin with a stream of its own.
   *
   * @param {import("./stream.js").Settings} settings
   * @param {string | null} cursor
   * @param {boolean} returns to the shared stream, when it has caught up
   * @param {object} sink `gap` and `problem`, as of a feed; `changed` when it may be `settle`d
   */
  begin(settings, cursor, returns, sink) {
    if (returns) {
      this.#handover = new Handover(
        (event) => this.#deliver(event),
        () => {
          const own = this.#own;
          this.#own = this.#handover = null;
          own.close();
          sink.changed();
        },
        REMEMBERED,
      );
    }
    this.#own = new Feed(settings, this.matchers, cursor, {
      event: (event) => (this.#handover ? this.#handover.fromOld(event) : this.#deliver(event)),
      state: (state, detail) => {
        this.#ownState = [state, detail];
        sink.changed();
      },
      gap: sink.gap,
      problem: sink.problem,
      named: () => {},
      covered: () => {},
    });
    this.#own.start();
  }

  /** It does not return any more, for nobody could tell its updates there. */
  stay() {
    this.#handover?.cancel();
    this.#handover = null;
  }

  /** Told how the shared stream is. */
  settle(state, detail, covered) {
    if (!this.isPlaced) return;
    const isThere = state === "open" && isSubset(this.matchers, covered);
    if (this.#handover) {
      const isReady = isThere && this.#own.isLive;
      if (isReady) this.#handover.begin(); // not before: nobody else has what its own stream still has to give
      this.#handover.ready(isReady);
    }
    if (this.#own) this.#tell(...this.#ownState);
    else this.#tell(state === "open" && !isThere ? "connecting" : state, detail);
  }

  /** The connection has ended, and with it this one. */
  end() {
    this.#tell("closed", {});
    this.close();
  }

  close() {
    this.#handover?.cancel();
    this.#own?.close();
    this.#own = this.#handover = null;
    this.#give = this.#onstate = () => {};
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
