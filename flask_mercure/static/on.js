// <mercure-on>: what a page does with its updates, said in its HTML; mercure_on() writes it.

import { connect } from "./page.js";

/** Its elements act when they are in the page: not before Turbo has defined them. */
async function turbo({ data }) {
  await customElements.whenDefined("turbo-stream");
  window.Turbo.renderStreamMessage(data);
}

/** By the major version: does the out-of-band swaps of HTML; nothing else of it gets into the page. */
const SWAPS = {
  2: (html) => window.htmx.swap(document.body, html, { swapStyle: "none" }),
  4: (html) => window.htmx.swap({ text: html, target: document.body, sourceElement: document.body, swap: "none" }),
};

function htmx({ data }) {
  const version = window.htmx?.version;
  const swap = SWAPS[parseInt(version)];
  if (swap) return swap(withoutKnown(data));
  console.error(`mercure_on("htmx") knows htmx 2 and 4, and this page has ${version ?? "none"}: the update is left out`);
}

/** HTML without the elements that it would add and the page has already, having been rendered later. */
function withoutKnown(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  for (const element of template.content.querySelectorAll("[hx-swap-oob]")) {
    if (!/^(beforeend|afterbegin)\b/.test(element.getAttribute("hx-swap-oob"))) continue;
    for (const child of [...element.children]) if (child.id && document.getElementById(child.id)) child.remove();
  }
  return template.innerHTML;
}

/** By event type: what becomes of HTML. The app renders all updates of these types; those of other types are text. */
const HTML = new Map(Object.entries({ turbo, htmx }));

/** The function of a name such as `app.toast`, when it is called: scripts may define it later. */
function named(path) {
  return (update) => {
    const names = path.split(".");
    const name = names.pop();
    const owner = names.reduce((object, part) => object?.[part], window);
    if (typeof owner?.[name] !== "function") {
      throw new TypeError(`mercure_on calls ${path}(), and the page has no such function`);
    }
    owner[name](update);
  };
}

/** Shows data, or a field of it, in the elements of a selector. */
function written(pattern, field) {
  return (update) => {
    const hasNames = /\{\w+\}/.test(pattern);
    const data = hasNames || field !== null ? update.json() : null;
    const value = field === null ? update.data : data[field];
    if (value === undefined) return; // such as of what was deleted
    const selector = pattern.replace(/\{(\w+)\}/g, (_, name) => CSS.escape(data[name]));
    for (const element of document.querySelectorAll(selector)) element.textContent = value;
  };
}

class MercureOn extends HTMLElement {
  #end = () => {};

  connectedCallback() {
    const mercure = connect();
    const [type, call, topics, text, field] = ["type", "call", "topics", "text", "field"].map((name) =>
      this.getAttribute(name),
    );
    const listener = HTML.get(type) ?? (call === null ? written(text, field) : named(call));
    const lastEventId = this.getAttribute("last-event-id");
    const ends = [];
    if (lastEventId === null) {
      ends.push(mercure.on(type, listener));
      if (topics !== null) ends.push(mercure.subscribe(JSON.parse(topics)));
    } else {
      // By itself: what the page that was here before has shown already must be shown again in this one.
      const take = (update) => update.type === type && listener(update);
      ends.push(mercure.on(type, () => {})); // so that EventSource hears the type
      ends.push(mercure.subscribe(JSON.parse(topics), take, { lastEventId }));
    }
    const gap = this.getAttribute("gap");
    if (gap !== null) {
      const fill = gap === "reload" ? () => mercure.reload() : ({ detail }) => named(gap)(detail);
      const take = (event) => event.defaultPrevented || fill(event);
      mercure.addEventListener("gap", take);
      ends.push(() => mercure.removeEventListener("gap", take));
    }
    this.#end = () => ends.forEach((end) => end());
  }

  disconnectedCallback() {
    this.#end();
  }
}

if (!customElements.get("mercure-on")) customElements.define("mercure-on", MercureOn);
