import { useChat } from "@ai-sdk/react";
import type { UIMessage } from "ai";
import { subscribe } from "mercure";
import { MercureChatTransport } from "mercure/ai";
import { useEffect } from "react";
import { createRoot } from "react-dom/client";

type Page = { id: string; messages: UIMessage[]; topic: string | null; position: string; asks: boolean };

const page: Page = JSON.parse(document.getElementById("page")!.textContent!);
const transport = new MercureChatTransport({
  api: "/chat",
  headers: () => ({ "X-CSRF-Token": "of the page" }),
  resume: page.asks ? undefined : () => page.topic,
});

function Chat() {
  const { id, position } = page;
  const { messages, status, error, sendMessage, stop, setMessages, resumeStream } = useChat({
    ...page,
    transport,
    resume: true,
  });

  // what another tab asks
  const follow = () =>
    subscribe(`/users/7/chats/${id}`, (update) => {
      const { message, topic } = update.json();
      page.topic = topic;
      let isNew = false;
      setMessages((known) => {
        isNew = known.every(({ id }) => id !== message.id);
        return isNew ? [...known, message] : known;
      });
      if (isNew) resumeStream();
    }, { lastEventId: position });
  useEffect(follow, [id]);

  return (
    <>
      {messages.map(({ id, role, parts }) => (
        <p key={id} className={role}>
          {parts.map((part) => (part.type === "text" ? part.text : `[${part.type}]`)).join("")}
        </p>
      ))}
      <p id="status">{status}</p>
      <p id="error">{error?.message}</p>
      <button id="ask" onClick={() => sendMessage({ text: "Why?" })}>Ask</button>
      <button id="stop" onClick={() => stop()}>Stop</button>
    </>
  );
}

createRoot(document.getElementById("chat")!).render(<Chat />);
