// WebSockets where event streams are held back: when to go over, for how long, and when to come back.

const LASTING = 3_600_000; // milliseconds after which event streams are tried again: the network may be another
const MISSES = 3; // sockets in a row that do not open, where they did before
const FIRST_PAUSE = 60_000; // milliseconds without sockets after the first one that did not open
const SOCKET = "websocket";

/** What the streams of a page are opened with. The tab remembers it, in its sessionStorage. */
export class Fallback {
  #chosen;
  #allowed;
  #key;
  #until = 0; // when event streams are tried again
  #proven = false; // a socket has opened
  #misses = 0;
  #pause = 0;
  #notBefore = 0;
  #hasWarned = false;

  /**
   * @param {string} chosen name of the transport that the page wants
   * @param {boolean} allowed whether sockets may take its place
   * @param {boolean} hasToken sent in a header, which browsers cannot do with sockets
   * @param {URL} url of the hub
   */
  constructor(chosen, allowed, hasToken, url) {
    this.#chosen = chosen;
    this.#allowed = allowed && !hasToken && chosen !== SOCKET;
    this.#hasWarned = !(allowed && hasToken);
    this.#key = `mercure ${SOCKET} ${url.href}`;
    this.adopt(this.#stored());
  }

  /** Name of the transport for the next stream. */
  get name() {
    return Date.now() < this.#until ? SOCKET : this.#chosen;
  }

  /** Time until which sockets are used that have worked, in milliseconds since 1970; 0 for none. */
  get until() {
    return this.#proven ? this.#until : 0;
  }

  /** Another tab, or this one before it was loaded again, got through with a socket. */
  adopt(until) {
    if (!this.#allowed || !(until > Date.now()) || until <= this.until) return;
    this.#until = Math.min(until, Date.now() + LASTING);
    this.#proven = true;
    this.#store();
  }

  /**
   * A stream is held back.
   *
   * @param {string} name of its transport
   * @returns {boolean} whether another one takes its place
   */
  heldBack(name) {
    if (name === SOCKET) return false;
    if (!this.#hasWarned) {
      this.#hasWarned = true;
      console.warn(
        "mercure: the event stream is held back, and a WebSocket cannot send the token: " +
          "with the hub's cookie, in place of the option token, this page could use one",
      );
    }
    if (!this.#allowed || Date.now() < this.#notBefore) return false;
    // Another stream of the page may have gone over before this one.
    if (this.name !== SOCKET) {
      this.#until = Date.now() + LASTING;
      this.#proven = false;
      this.#misses = 0;
    }
    return true;
  }

  opened(name) {
    this.#misses = 0;
    if (name !== SOCKET || !this.#allowed || this.#proven) return;
    this.#proven = true;
    this.#pause = 0;
    this.#store();
  }

  /** One did not open: the hub has no sockets, is away, or refuses, and an event stream can tell which. */
  missed(name) {
    if (name !== SOCKET || !this.#allowed || ++this.#misses < (this.#proven ? MISSES : 1)) return;
    this.#until = 0;
    this.#proven = false;
    this.#pause = Math.min(this.#pause * 2 || FIRST_PAUSE, LASTING);
    this.#notBefore = Date.now() + this.#pause;
    this.#store();
  }

  #stored() {
    try {
      return Number(sessionStorage.getItem(this.#key));
    } catch {
      return 0; // the browser gives the page no storage
    }
  }

  #store() {
    try {
      if (this.until) sessionStorage.setItem(this.#key, String(this.until));
      else sessionStorage.removeItem(this.#key);
    } catch {
      // the next page finds out for itself
    }
  }
}
