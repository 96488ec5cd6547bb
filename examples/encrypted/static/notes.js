// Shows the notes: each update is decrypted here, with keys that only the application gives out.

import { on } from "mercure";
import { KeySet } from "./jwe.js";

const keys = new KeySet("/keys");
const seen = new Set();

on("message", async (update) => {
  const item = document.querySelector("template").content.cloneNode(true).firstChild;
  const [text, details] = item.children;
  // It has its place now, whenever it is decrypted: that may take a request for a new key.
  document.getElementById("notes").prepend(item);
  try {
    const content = await keys.decrypt(update.data);
    const note = content.json();
    // It is whole, but is it what it was sent as? The hub could repeat it, or move it to another topic.
    if (note.topic !== "notes") throw new Error("this note was written for another topic");
    if (seen.has(note.id)) return item.remove();
    seen.add(note.id);
    const sent = new Date(note.sent).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    text.textContent = note.text;
    details.textContent = `${note.from}, ${sent} · ${content.alg}, key ${content.kid.slice(0, 8)}…`;
  } catch (error) {
    item.classList.add("problem");
    text.textContent = "This note cannot be read.";
    details.textContent = error.message;
  }
});

document.querySelector("main").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const answer = await fetch(form.action, { method: "POST", body: new FormData(form) }).catch(() => null);
  const problem = answer === null ? "The application does not answer." : answer.ok ? "" : await answer.text();
  document.querySelector("[role=alert]").textContent = problem;
  if (!problem) form.reset();
});
