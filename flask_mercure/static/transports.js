// Ways to receive updates. All have one shape, so that one can take the place of another:
//
//   transport({url, token, credentials}, sink) -> close()
//
// The sink's `open({position, isNamed, isMarked, isAdmitted})` comes first, then any number of `alive()`,
// `retry(milliseconds)` and `event({id, type, data, topics})`, and once `end({status?, reason?, retryAfter?, error?})`,
// after which nothing comes. After `close()` nothing comes at all. `isNamed` is whether events come with their topics,
// `isMarked` whether `live()` follows the history; both were asked for. `isAdmitted` is whether the hub took a token,
// `undefined` where it does not tell.

import { EventStreamParser } from "./event_stream.js";

const PROBLEM = "urn:flask-mercure:problem:";
const REVOKED = 4401; // code of a WebSocket's end

/**
 * @typedef {object} Transport
 * @property {(request: object, sink: object) => () => void} open
 * @property {boolean} showsBytes `alive` is called for each piece that arrives, comments too
 * @property {boolean} showsStatus `end` tells the status of a refusal
 * @property {boolean} hearsAllTypes whatever the types that were named
 * @property {boolean} showsTopics with which this project's hub sends events
 */

/**
 * With fetch: sees the hub's headers, each byte and the status of a refusal, and can send a token.
 *
 * @param {{url: URL, token: (() => string | Promise<string>) | null, credentials: RequestCredentials}} request
 * @param {object} sink
 * @returns {() => void} ends it
 */
function openFetch({ url, token, credentials }, sink) {
  const abort = new AbortController();
  const tell = (name, value) => abort.signal.aborted || sink[name](value);

  async function read() {
    const headers = { Accept: "text/event-stream" };
    if (token) headers.Authorization = `Bearer ${await token()}`;
    const response = await fetch(url, {
      headers,
      credentials: token ? "omit" : credentials,
      cache: "no-store",
      signal: abort.signal,
    });
    const [mediaType] = (response.headers.get("Content-Type") ?? "").split(";");
    if (response.status !== 200 || mediaType.trim().toLowerCase() !== "text/event-stream") {
      const retryAfter = Number(response.headers.get("Retry-After")) * 1000 || undefined;
      return { status: response.status, reason: await problemOf(response), retryAfter };
    }
    const position = response.headers.get("Mercure-Last-Event-ID") ?? response.headers.get("Last-Event-ID");
    const extras = (response.headers.get("Mercure-With") ?? "").split(", ");
    const [isNamed, isMarked] = [extras.includes("topics"), extras.includes("live")];
    const isAdmitted = isMarked ? extras.includes("access") : undefined; // by this project's hub
    tell("open", { position: position === null ? null : fromBytes(position), isNamed, isMarked, isAdmitted });
    const parser = new EventStreamParser(
      (event) => tell("event", event),
      (milliseconds) => tell("retry", milliseconds),
      (comment) => comment === "live" && tell("live"),
    );
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return {};
      tell("alive");
      parser.push(value);
    }
  }

  read().then(
    (end) => tell("end", end),
    (error) => tell("end", { error }),
  );
  return () => abort.abort();
}

/** What this project's hub calls the cause of a refusal (docs/problems.md); `undefined` from others. */
async function problemOf(response) {
  if (response.headers.get("Content-Type")?.startsWith("application/problem+json")) {
    const { type } = await response.json().catch(() => ({}));
    if (typeof type === "string" && type.startsWith(PROBLEM)) return type.slice(PROBLEM.length);
  }
  response.body?.cancel().catch(() => {});
  return undefined;
}

/** Headers arrive as ISO 8859-1; the id is UTF-8. */
function fromBytes(text) {
  return new TextDecoder().decode(Uint8Array.from(text, (character) => character.charCodeAt(0)));
}

const NativeEventSource = globalThis.EventSource; // a page may put ours into its place

/**
 * With EventSource: shown as events by the browser's developer tools, and blind to headers, comments and topics.
 *
 * It only hears the types that it was told before.
 *
 * @param {{url: URL, credentials: RequestCredentials, types: Iterable<string>}} request
 * @param {object} sink
 * @returns {() => void} ends it
 */
function openEventSource({ url, credentials, types }, sink) {
  const source = new NativeEventSource(url, { withCredentials: credentials === "include" });
  source.onopen = () => sink.open({ position: null });
  source.onerror = () => {
    source.close(); // it would connect again by itself, and to the cursor of its URL at first
    sink.end({});
  };
  let last = "";
  const listener = ({ lastEventId, type, data }) => {
    const hasId = lastEventId !== last; // an event without one has that of the event before
    last = lastEventId;
    sink.alive();
    sink.event({ id: lastEventId, hasId, type, data, topics: [] });
  };
  for (const type of new Set(["message", ...types])) {
    // "open" and "error" are the source's own events as well, and those have no data.
    source.addEventListener(type, (event) => event instanceof MessageEvent && listener(event));
  }
  return () => {
    source.onopen = source.onerror = null;
    source.close();
    sink = { event() {}, alive() {} };
  };
}

/**
 * With a WebSocket, which our hub has at the same URL (docs/websocket.md): for networks that hold streams back.
 *
 * The browser sends the cookie whatever `credentials` says, and shows neither headers nor pings.
 *
 * @param {{url: URL}} request
 * @param {object} sink
 * @returns {() => void} ends it
 */
function openWebSocket({ url }, sink) {
  const address = new URL(url);
  address.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  let socket;
  try {
    socket = new WebSocket(address);
  } catch (error) {
    const timer = setTimeout(() => sink.end({ error })); // the page may not, by its policy or from https to http
    return () => clearTimeout(timer);
  }
  socket.onopen = () => sink.open({ position: null, isNamed: true, isMarked: true });
  socket.onmessage = (message) => {
    const { id, type, data, retry, topics = [], live } = JSON.parse(message.data);
    sink.alive();
    if (live) return void sink.live();
    if (retry !== undefined) sink.retry(retry);
    sink.event({ id, type, data, topics });
  };
  socket.onclose = ({ code, reason }) => {
    // The token's end is the only one of its code that a client which sends nothing can meet.
    if (code === 1008) sink.end({ status: 401, error: new Error(reason) });
    else sink.end(code === REVOKED ? { status: 401, reason: "token-revoked", error: new Error(reason) } : {});
  };
  return () => {
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  };
}

/** @type {Record<string, Transport>} */
export const TRANSPORTS = {
  fetch: { open: openFetch, showsBytes: true, showsStatus: true, hearsAllTypes: true, showsTopics: true },
  eventsource: {
    open: openEventSource,
    showsBytes: false,
    showsStatus: false,
    hearsAllTypes: false,
    showsTopics: false,
  },
  websocket: { open: openWebSocket, showsBytes: false, showsStatus: false, hearsAllTypes: true, showsTopics: true },
};
