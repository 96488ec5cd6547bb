// How far a job is: what mercure.progress() publishes, read from its beginning.

import { readJson } from "./connection.js";
import { connect } from "./page.js";

const STATES = new Set(["running", "done", "failed"]);

/**
 * Follow a job until it is done. One that has failed may be tried again, and is followed on.
 *
 * @param {string} topic of this run of the job
 * @param {import("./mercure.js").ProgressListener} listener
 * @param {import("./mercure.js").Mercure} [mercure] default: the page's connection
 * @returns {() => void} ends it earlier
 */
export function progress(topic, listener, mercure = connect()) {
  const take = (update) => {
    const state = readJson(update);
    if (state?.state === "done") stop();
    if (STATES.has(state?.state)) listener[state.state]?.(state);
  };
  const stop = mercure.subscribe(topic, take, { lastEventId: "earliest" });
  return stop;
}
