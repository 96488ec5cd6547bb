// The chats of the AI SDK (useChat of @ai-sdk/react and others) over a Mercure hub (docs/llm.md).

import { followRun } from "./runs.js";

const TEXT = "text"; // id of the part that strings become

/** A ChatTransport; the options are in ai.d.ts. */
export class MercureChatTransport {
  resumeStreamIsReplay = true; // a run is read from its beginning
  #api;
  #mercure;
  #options;
  #resumed = new Map(); // chat -> how often

  constructor({ api = "/api/chat", mercure, ...options } = {}) {
    this.#api = api;
    this.#mercure = mercure;
    this.#options = options;
  }

  /** Ask. The view answers with the topic of the run, `{"topic": ...}`. */
  async sendMessages({ chatId, abortSignal, headers, body, ...message }) {
    const { messages, trigger, messageId } = message;
    // Not aborted with the signal: a run that was begun is to be stopped.
    const [status, answer] = await this.#request(this.#api, headers, {
      ...(await resolve(this.#options.body)),
      ...body,
      id: chatId,
      messages,
      trigger,
      messageId,
    });
    const topic = answer?.topic;
    if (typeof topic !== "string" || topic === "") {
      throw new Error(
        `${this.#api} answered ${status} without a topic: answer {"topic": ...}, with that of mercure.stream_events()`,
      );
    }
    return this.#read(topic, abortSignal, () => this.#stop(chatId, headers));
  }

  /** Go on with the run of a chat, if there is one. */
  async reconnectToStream({ chatId, abortSignal, headers }) {
    const count = (this.#resumed.get(chatId) ?? 0) + 1;
    this.#resumed.set(chatId, count);
    const { resume } = this.#options;
    const topic = resume
      ? await resume(chatId)
      : (await this.#request(this.#url(chatId, "stream"), headers))[1]?.topic;
    if (!topic) return null;
    return this.#read(topic, abortSignal, () => {
      // A chat that resumes once more gives up this stream, and does not mean the run.
      setTimeout(() => this.#resumed.get(chatId) === count && this.#stop(chatId, headers));
    });
  }

  #stop(chatId, headers) {
    this.#request(this.#url(chatId, "stop"), headers, {}).catch(reportError);
  }

  #url(chatId, what) {
    return `${this.#api}/${encodeURIComponent(chatId)}/${what}`;
  }

  /** @returns {Promise<[number, any]>} the status and the JSON of the answer; `null` for 204 */
  async #request(url, headers, content) {
    const sent = new Headers(await resolve(this.#options.headers));
    for (const [name, value] of new Headers(headers)) sent.set(name, value);
    if (content) sent.set("Content-Type", "application/json");
    const send = this.#options.fetch ?? fetch;
    const response = await send(url, {
      method: content ? "POST" : "GET",
      headers: sent,
      body: content && JSON.stringify(content),
      credentials: this.#options.credentials ?? "same-origin",
    });
    if (response.status === 204) return [204, null];
    const type = response.headers.get("Content-Type") ?? "";
    if (response.ok && type.includes("json")) return [response.status, await response.json()];
    const told = type.startsWith("text/plain") ? await response.text() : "";
    throw new Error(told || `${url} answered ${response.status}, and no topic`);
  }

  /** The chunks of a run. */
  #read(topic, signal, stop) {
    let leave = () => {};
    const aborted = () => {
      leave();
      stop();
    };
    return new ReadableStream({
      start: (controller) => {
        if (signal?.aborted) {
          stop();
          controller.close();
          return;
        }
        const unfollow = followRun(topic, new Chunks(controller, () => leave()), this.#mercure);
        leave = () => {
          unfollow();
          signal?.removeEventListener("abort", aborted);
        };
        signal?.addEventListener("abort", aborted);
      },
      cancel: () => leave(),
    });
  }
}

/** Writes the events of a run as chunks of a UI message stream. */
class Chunks {
  #controller;
  #close;
  #steps = 0; // below 0: one that a new attempt goes on with
  #isEmpty = true;
  #isText = false; // a part of strings is open
  #isOver = false;

  constructor(controller, close) {
    this.#controller = controller;
    this.#close = close;
  }

  events(events) {
    for (const event of events) {
      if (typeof event === "string") this.#text(event);
      else this.#write(event);
    }
  }

  restart() {
    // Only the parts of the last step can be taken back, and not its beginning.
    if (this.#steps > 1) {
      this.#over();
      this.#controller.error(new Error("The answer was begun again; reload the page to see it."));
      return;
    }
    this.#write({ type: "reset-step" });
    this.#steps = -Math.abs(this.#steps);
    this.#isText = false;
  }

  end({ kind, message }) {
    if (this.#isText) this.#write({ type: "text-end", id: TEXT });
    if (kind === "error") this.#write({ type: "error", errorText: message });
    else if (kind === "stopped") this.#write({ type: "abort" });
    else if (this.#isText) this.#write({ type: "finish" });
    if (this.#isOver) return;
    this.#over();
    this.#controller.close();
  }

  #text(delta) {
    if (!this.#isText) {
      if (this.#isEmpty) this.#write({ type: "start" });
      this.#write({ type: "text-start", id: TEXT });
      this.#isText = true;
    }
    this.#write({ type: "text-delta", id: TEXT, delta });
  }

  #write(chunk) {
    if (this.#isOver) return;
    this.#isEmpty = false;
    if (chunk.type === "start-step" && this.#steps++ < 0) this.#steps = 1; // that which is there
    else this.#controller.enqueue(chunk);
  }

  #over() {
    this.#isOver = true;
    this.#close();
  }
}

function resolve(option) {
  return typeof option === "function" ? option() : option;
}
