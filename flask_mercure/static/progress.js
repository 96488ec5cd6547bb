// How far a job is: what mercure.progress() publishes, read from its beginning. mercure_progress() shows it.

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
    const state = read(update);
    if (state?.state === "done") stop();
    if (STATES.has(state?.state)) listener[state.state]?.(state);
  };
  const stop = mercure.subscribe(topic, take, { lastEventId: "earliest" });
  return stop;
}

function read(update) {
  try {
    return update.json();
  } catch {
    return null; // something else was published there
  }
}

class MercureProgress extends HTMLElement {
  #stop = () => {};

  connectedCallback() {
    const [bar, label, end] = ["progress", "[data-label]", "output"].map((name) => this.querySelector(name));
    const show = ({ state, value, total, label: text }) => {
      this.setAttribute("state", state);
      if (total) [bar.max, bar.value] = [total, value];
      else if (state === "done") bar.value = bar.max;
      else bar.removeAttribute("value"); // of unknown length
      label.textContent = text ?? "";
      end.textContent = "";
    };
    const tell = (state) =>
      this.dispatchEvent(new CustomEvent(state.state, { bubbles: true, cancelable: true, detail: state }));
    this.#stop = progress(this.getAttribute("topic"), {
      running: show,
      done: (state) => {
        show({ ...state, value: state.total });
        end.textContent = this.getAttribute("done");
        if (tell(state) && this.hasAttribute("then")) location.assign(this.getAttribute("then"));
      },
      failed: (state) => {
        show(state);
        end.textContent = state.message;
        tell(state);
      },
    });
  }

  disconnectedCallback() {
    this.#stop();
  }
}

if (!customElements.get("mercure-progress")) customElements.define("mercure-progress", MercureProgress);
