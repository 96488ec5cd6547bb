import type { ChatTransport, UIMessage } from "ai";
import type { Mercure } from "./mercure.js";

/** A value, or a function that gives it for each request. */
export type Resolvable<T> = T | (() => T | Promise<T>);

/** As of `DefaultChatTransport`, but for `mercure`. */
export interface MercureChatTransportOptions {
  /**
   * Where to ask; default: `/api/chat`. A POST there is answered with `{"topic": ...}`, the topic of the run. With the
   * id of the chat, `GET {api}/{id}/stream` is answered in the same way, or with 204 when nothing runs, and
   * `POST {api}/{id}/stop` stops the run.
   */
  api?: string;
  headers?: Resolvable<Record<string, string> | Headers>;
  /** Members that are sent with each question. */
  body?: Resolvable<object>;
  /** Default: `same-origin`. */
  credentials?: RequestCredentials;
  fetch?: typeof fetch;
  /** The connection to the hub; default: the page's. */
  mercure?: Mercure;
}

/** The transport of `useChat` and `Chat` of the AI SDK for answers that `mercure.stream_events()` publishes. */
export class MercureChatTransport<UI_MESSAGE extends UIMessage = UIMessage>
  implements ChatTransport<UI_MESSAGE>
{
  constructor(options?: MercureChatTransportOptions);
  readonly resumeStreamIsReplay: true;
  sendMessages: ChatTransport<UI_MESSAGE>["sendMessages"];
  reconnectToStream: ChatTransport<UI_MESSAGE>["reconnectToStream"];
}
