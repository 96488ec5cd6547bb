import { useChat } from "@ai-sdk/react";
import type { UIMessage } from "ai";
import { MercureChatTransport } from "mercure/ai.js";
import { createRoot } from "react-dom/client";

const page: { id: string; messages: UIMessage[] } = JSON.parse(document.getElementById("page")!.textContent!);
const transport = new MercureChatTransport({ api: "/chat", headers: () => ({ "X-CSRF-Token": "of the page" }) });

function Chat() {
  const { messages, status, error, sendMessage, stop } = useChat({ ...page, transport, resume: true });
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
