// EventSource, whose instances take what they get from the page's one connection.

import { asked, take } from "./page.js";

const Native = globalThis.EventSource;
const [CONNECTING, OPEN, CLOSED] = [0, 1, 2];

/**
 * The interface of the HTML standard (section 9.2.2), for URLs such as `mercure_url` gives.
 *
 * All sources of a page, and its tabs, share one connection, with the credentials of the page's; each has its own
 * topics and begins at its own position. For any other URL, the browser's own `EventSource` is made.
 */
export class EventSource extends EventTarget {
  #url;
  #origin;
  #withCredentials;
  #readyState = CONNECTING;
  #handlers = new Map(); // type -> {handler, listener}
  #end;

  /**
   * @param {string | URL} url
   * @param {{withCredentials?: boolean}} [init] kept, and without effect on the page's connection
   */
  constructor(url, init = {}) {
    if (arguments.length === 0) throw new TypeError("EventSource needs a URL");
    const address = resolved(url);
    const wanted = asked(address);
    if (!wanted) return new Native(address, init);
    super();
    this.#url = address.href;
    this.#origin = address.origin;
    this.#withCredentials = Boolean(init?.withCredentials);
    this.#end = take(
      wanted,
      (update) => this.#receive(update),
      (state) => this.#follow(state),
    );
  }

  /** The browser's own are instances too. */
  static [Symbol.hasInstance](object) {
    return super[Symbol.hasInstance](object) || (this === EventSource && object instanceof Native);
  }

  get url() {
    return this.#url;
  }

  get withCredentials() {
    return this.#withCredentials;
  }

  get readyState() {
    return this.#readyState;
  }

  get onopen() {
    return this.#handler("open");
  }

  set onopen(handler) {
    this.#handle("open", handler);
  }

  get onmessage() {
    return this.#handler("message");
  }

  set onmessage(handler) {
    this.#handle("message", handler);
  }

  get onerror() {
    return this.#handler("error");
  }

  set onerror(handler) {
    this.#handle("error", handler);
  }

  close() {
    this.#readyState = CLOSED;
    this.#end();
  }

  #handler(type) {
    return this.#handlers.get(type)?.handler ?? null;
  }

  /** One that takes another's place is called in its turn (HTML standard, 8.1.8.1). */
  #handle(type, handler) {
    const known = this.#handlers.get(type);
    if (typeof handler !== "function") {
      if (known) this.removeEventListener(type, known.listener);
      this.#handlers.delete(type);
    } else if (known) known.handler = handler;
    else {
      const entry = { handler, listener: (event) => entry.handler.call(this, event) };
      this.#handlers.set(type, entry);
      this.addEventListener(type, entry.listener);
    }
  }

  #follow(state) {
    if (this.#readyState === CLOSED) return;
    if (state === "open") this.#open();
    else if (state === "refused" || state === "closed") {
      this.close();
      this.dispatchEvent(new Event("error"));
    } else if (state === "offline" || this.#readyState === OPEN) {
      this.#readyState = CONNECTING;
      this.dispatchEvent(new Event("error"));
    }
  }

  #open() {
    if (this.#readyState !== CONNECTING) return;
    this.#readyState = OPEN;
    this.dispatchEvent(new Event("open"));
  }

  #receive({ id, type, data }) {
    this.#open();
    if (this.#readyState === CLOSED) return;
    this.dispatchEvent(new MessageEvent(type, { data, lastEventId: id, origin: this.#origin }));
  }
}

for (const [name, value] of Object.entries({ CONNECTING, OPEN, CLOSED })) {
  for (const one of [EventSource, EventSource.prototype]) {
    Object.defineProperty(one, name, { value, enumerable: true });
  }
}
for (const name of ["url", "withCredentials", "readyState", "onopen", "onmessage", "onerror", "close"]) {
  Object.defineProperty(EventSource.prototype, name, { enumerable: true });
}
Object.defineProperty(EventSource.prototype, Symbol.toStringTag, { value: "EventSource", configurable: true });

function resolved(url) {
  try {
    return new URL(url, document.baseURI);
  } catch {
    throw new DOMException(`cannot open an EventSource to ${JSON.stringify(String(url))}: it is no URL`, "SyntaxError");
  }
}
