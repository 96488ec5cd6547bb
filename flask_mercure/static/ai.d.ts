import type { ChatTransport, UIMessage } from "ai";
import type { Mercure } from "./mercure.js";

/** A value, or a function that gives it for each request. */
export type Resolvable<T> = T | (() => T | Promise<T>);

/** As of `DefaultChatTransport`, but for `mercure`. */
export interface MercureChatTransportOptions {
  /**
   * Where to ask; default: `/api/chat`. A POST there is answered with `{"topic": ...}`, the topic of the run.
   * `POST {api}/{id}/stop`, with the id of the chat, stops the run.
   */
  api?: string;
  /**
   * The topic of the run that a chat goes on with, if there is one. Default: what `GET {api}/{id}/stream` is answered
   * with, `{"topic": ...}` or 204.
   */
  resume?: (chatId: string) => string | null | undefined | Promise<string | null | undefined>;
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
