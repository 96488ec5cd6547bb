// Event streams, as the HTML standard parses them (section 9.2.6, "Interpreting an event stream").

/**
 * Takes a stream in pieces, wherever they were cut, and gives events.
 *
 * An event that the stream's end cuts short is not given, as the standard says. `id` is that of the last event that had
 * one, and `hasId` tells whether this one has.
 */
export class EventStreamParser {
  #decoder = new TextDecoder(); // takes a byte order mark off, and joins characters that were cut
  #partial = ""; // a line without its end
  #endedWithCR = false; // an LF may follow that belongs to it
  #data = [];
  #type = "";
  #id = "";
  #hasId = false; // the event that is read
  #topics = [];
  #onevent;
  #onretry;
  #oncomment;

  /**
   * @param {(event: {id: string, hasId: boolean, type: string, data: string, topics: string[]}) => void} onevent
   *   `topics` are those of the fields by which this project's hub names them
   * @param {(milliseconds: number) => void} [onretry] the stream names a time before reconnecting
   * @param {(text: string) => void} [oncomment]
   */
  constructor(onevent, onretry = () => {}, oncomment = () => {}) {
    this.#onevent = onevent;
    this.#onretry = onretry;
    this.#oncomment = oncomment;
  }

  /** @param {Uint8Array} bytes */
  push(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (!text) return;
    if (this.#endedWithCR && text[0] === "\n") text = text.slice(1);
    this.#endedWithCR = false;
    const ends = /\r\n?|\n/g;
    let start = 0;
    for (let end = ends.exec(text); end; end = ends.exec(text)) {
      const line = this.#partial + text.slice(start, end.index);
      this.#partial = "";
      start = ends.lastIndex;
      if (end[0] === "\r" && start === text.length) this.#endedWithCR = true;
      this.#line(line);
    }
    this.#partial += text.slice(start);
  }

  #line(line) {
    if (line === "") {
      this.#dispatch();
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return this.#oncomment(line.slice(1).trim());
    const name = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value[0] === " ") value = value.slice(1);
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#type = value;
    else if (name === "topic") this.#topics.push(value);
    else if (name === "id" && !value.includes("\0")) {
      this.#id = value;
      this.#hasId = true;
    }
    else if (name === "retry" && /^[0-9]+$/.test(value)) this.#onretry(Number(value));
  }

  #dispatch() {
    const [data, type, topics, hasId] = [this.#data, this.#type, this.#topics, this.#hasId];
    this.#hasId = false;
    this.#data = [];
    this.#type = "";
    this.#topics = [];
    if (data.length === 0) return;
    this.#onevent({ id: this.#id, hasId, type: type || "message", data: data.join("\n"), topics });
  }
}
