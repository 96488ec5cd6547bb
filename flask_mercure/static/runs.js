// Runs: what mercure.stream_events() publishes, read from the beginning (docs/llm.md).

import { readJson } from "./connection.js";
import { connect } from "./mercure.js";

const LOST = { kind: "error", message: "A part of this answer is lost." };

/**
 * The rules by which updates become a run; flask_mercure/publishing/runs.py has them for Python.
 *
 * The first end counts. Another attempt counts from its first events on, and the earlier one no more.
 */
export class Run {
  #listener;
  #stream = null; // of the attempt that counts
  #next = 0; // its next number
  #superseded = new Set();
  isOver = false;

  /** @param {import("./runs.js").RunListener} listener */
  constructor(listener) {
    this.#listener = listener;
  }

  /** Take an update; what comes twice, or does not belong to a run, is dropped. */
  take({ kind, stream, seq, events, message }) {
    if (this.isOver) return;
    if (kind === "events") this.#take(stream, seq, events);
    else if (kind === "done") this.#end(stream === this.#stream && seq > this.#next ? LOST : { kind });
    else if (kind === "stopped") this.#end({ kind });
    else if (kind === "error") this.#end({ kind, message });
  }

  #take(stream, seq, events) {
    if (this.#superseded.has(stream)) return;
    if (stream !== this.#stream) {
      if (this.#stream !== null) {
        this.#superseded.add(this.#stream);
        this.#listener.restart?.();
      }
      this.#stream = stream;
      this.#next = 1; // 0 is its start
    }
    if (seq < this.#next) return;
    if (seq > this.#next) {
      this.#end(LOST);
      return;
    }
    this.#next++;
    this.#listener.events?.(events);
  }

  #end(end) {
    this.isOver = true;
    this.#listener.end?.(end);
  }
}

/**
 * Follow runs from their beginning, those that are there and those that come.
 *
 * @param {import("./mercure.js").Topics} topics of one run, or a pattern
 * @param {(topic: string) => import("./runs.js").RunListener | void} begin called once for each run; one for which it
 *   returns nothing is not followed
 * @param {import("./mercure.js").Mercure} [mercure] default: the page's connection
 * @returns {() => void} ends it
 */
export function followRuns(topics, begin, mercure = connect()) {
  const runs = new Map();
  const take = (update) => {
    const data = readJson(update);
    if (typeof data?.run !== "string") return;
    let run = runs.get(data.run);
    if (!run) runs.set(data.run, (run = new Run(begin(data.run) ?? {})));
    run.take(data);
  };
  return mercure.subscribe(topics, take, { lastEventId: "earliest" });
}

/**
 * Follow one run from its beginning to its end.
 *
 * @param {string} topic
 * @param {import("./runs.js").RunListener} listener
 * @param {import("./mercure.js").Mercure} [mercure] default: the page's connection
 * @returns {() => void} ends it earlier
 */
export function followRun(topic, listener, mercure) {
  const end = (how) => {
    stop();
    listener.end?.(how);
  };
  const stop = followRuns(
    topic,
    () => ({ events: (events) => listener.events?.(events), restart: () => listener.restart?.(), end }),
    mercure,
  );
  return stop;
}
