import type { Mercure, Topics } from "./mercure.js";

/** How a run ended; `message` is a sentence for the user. */
export type RunEnd = { kind: "done" } | { kind: "stopped" } | { kind: "error"; message: string };

export interface RunListener {
  /** What `mercure.stream_events()` was given, in order; strings may come in other pieces. */
  events?(events: any[]): void;
  /** The job is tried again: what came so far counts no more. */
  restart?(): void;
  /** Called once; nothing follows. */
  end?(end: RunEnd): void;
}

/** Follow one run from its beginning to its end. Returns what ends it earlier. */
export function followRun(topic: string, listener: RunListener, mercure?: Mercure): () => void;

/**
 * Follow the runs of a pattern, those that are there and those that come; `begin` is called once for each, with
 * its topic; a run for which it returns nothing is skipped. Returns what ends it.
 */
export function followRuns(
  topics: Topics,
  begin: (topic: string) => RunListener | void,
  mercure?: Mercure,
): () => void;

/** The rules by which updates become a run, for updates that come in another way. */
export class Run {
  constructor(listener: RunListener);
  /** Whether it has ended. */
  readonly isOver: boolean;
  /** Take the data of an update, as JSON; what comes twice is dropped. */
  take(update: any): void;
}
