// Whose the browser's cookie is. Tabs of two people share nothing, and those of who was signed in before stop.

/** The one with whom a page began, and the one of now. */
export class Identity {
  #cookie; // name of the app's mark beside the cookie, which scripts can read; that one they cannot
  #key; // in the storage, which tells other tabs; `null` where a token of the page's own is sent
  #said; // where there is no mark, by the page or an answer of its app
  #own;

  /**
   * @param {URL} url of the hub
   * @param {string | undefined} said by the page
   * @param {boolean} hasToken in place of the cookie
   */
  constructor(url, said, hasToken) {
    this.#cookie = `mercure_identity_${`${url.host}${url.pathname}`.replace(/[^a-z0-9]+/gi, "_")}=`;
    this.#key = hasToken ? null : `mercure identity ${url.href}`;
    this.#said = hasToken ? (said ?? "") : said;
    this.adopt(this.#said);
  }

  /** That with which the page began. */
  get own() {
    return this.#own;
  }

  /** Whether the cookie has become that of somebody else. */
  get isForeign() {
    return this.#current !== this.#own;
  }

  /** Whether nobody has it any more. */
  get isNobody() {
    return this.#current === "";
  }

  /** Whether the app may know better. */
  get isUnsure() {
    return this.#said !== undefined || this.isNobody;
  }

  get #current() {
    if (this.#said === undefined) return this.#marked();
    return (this.#key && fromStorage(this.#key)) ?? this.#said;
  }

  /** An answer of the app has come: what it says of whom it was for. */
  note(said) {
    if (this.#said === undefined) this.#tell(this.#marked());
    else if (said !== undefined) this.#tell((this.#said = said));
  }

  /** The page goes on with whom the cookie is of now. */
  adopt(said) {
    this.note(said);
    this.#own = this.#current;
  }

  /**
   * @param {() => void} changed called when it may be another
   * @param {AbortSignal} signal ends it
   */
  watch(changed, signal) {
    if (this.#key === null) return;
    window.addEventListener("storage", ({ key }) => key === this.#key && changed(), { signal });
    // Where there is one, nobody has to tell.
    globalThis.cookieStore?.addEventListener("change", changed, { signal });
  }

  #marked() {
    let all = "";
    try {
      all = document.cookie;
    } catch {
      // a frame that may not have any
    }
    const mark = all.split("; ").find((one) => one.startsWith(this.#cookie)) ?? "";
    return mark.slice(this.#cookie.length).split(".")[0]; // behind it is what the app needs
  }

  #tell(current) {
    if (this.#key === null) return;
    try {
      if (fromStorage(this.#key) !== current) localStorage.setItem(this.#key, current);
    } catch {
      // the browser gives the page no storage: other tabs look for themselves
    }
  }
}

function fromStorage(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}
