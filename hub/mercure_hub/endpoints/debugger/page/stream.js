// Server-Sent Events over fetch, which can send a header and sees why it is refused; EventSource does neither.

const FIRST_PAUSE = 1000;
const LONGEST_PAUSE = 30000;

export class Parser {
  constructor(dispatch) {
    this.dispatch = dispatch;
    this.rest = "";
    this.lastId = "";
    this.retry = null;
    this.begin();
  }

  begin() {
    this.data = [];
    this.type = "";
  }

  feed(text) {
    const lines = (this.rest + text).split(/\r\n|\n|\r(?!$)/);
    this.rest = lines.pop();
    for (const line of lines) this.take(line);
  }

  take(line) {
    if (line === "") {
      if (this.data.length > 0) {
        this.dispatch({ id: this.lastId, type: this.type || "message", data: this.data.join("\n") });
      }
      this.begin();
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.data.push(value);
    else if (name === "event") this.type = value;
    else if (name === "id" && !value.includes("\0")) this.lastId = value;
    else if (name === "retry" && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }
}

// A header field holds bytes, and an id may have any character: send it as UTF-8.
const asBytes = (text) => String.fromCharCode(...new TextEncoder().encode(text));
const fromBytes = (value) => new TextDecoder().decode(Uint8Array.from(value, (c) => c.charCodeAt(0)));

export class Stream {
  // on: { open(response), event(event), state(name, detail), refused(response) }
  constructor(url, options, on) {
    Object.assign(this, { url, options, on });
    this.lastId = "";
    this.pause = FIRST_PAUSE;
    this.ended = false;
    this.run();
  }

  close() {
    this.ended = true;
    clearTimeout(this.timer);
    this.controller?.abort();
    this.on.state("closed");
  }

  async run() {
    this.controller = new AbortController();
    this.on.state("connecting");
    const headers = { Accept: "text/event-stream", ...this.options.headers };
    if (this.lastId) headers["Last-Event-ID"] = asBytes(this.lastId);
    try {
      const response = await fetch(this.url, {
        ...this.options,
        headers,
        cache: "no-store",
        signal: this.controller.signal,
      });
      if (!response.ok && response.status < 500 && response.status !== 429) {
        this.ended = true;
        this.on.state("closed");
        await this.on.refused(response);
        return;
      }
      if (response.ok) {
        this.pause = FIRST_PAUSE;
        // Where it began: what comes during an interruption before the first event is not missed either.
        this.lastId ||= fromBytes(response.headers.get("Mercure-Last-Event-ID") ?? "");
        this.on.open(response);
        this.on.state("live");
        await this.read(response);
      }
    } catch (error) {
      if (this.ended) return;
    }
    if (this.ended) return;
    this.on.state("waiting", this.pause);
    this.timer = setTimeout(() => this.run(), this.pause);
    this.pause = Math.min(this.pause * 2, LONGEST_PAUSE);
  }

  async read(response) {
    const parser = new Parser((event) => {
      this.lastId = event.id;
      this.on.event(event);
    });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      parser.feed(value);
      if (parser.retry !== null) this.pause = Math.min(parser.retry, LONGEST_PAUSE);
    }
  }
}
