// <mercure-progress>: a bar that follows a job; mercure_progress() writes it.

import { progress } from "./progress.js";

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
        // In place of this page, to which Back would lead only to go on again at once.
        if (tell(state) && this.hasAttribute("then")) location.replace(this.getAttribute("then"));
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
