// Shows the notes: each update is decrypted here, with keys that only the application gives out.

import { KeySet } from "./jwe.js";

const page = JSON.parse(document.getElementById("page").textContent);
const keys = new KeySet(page.keys);
const seen = new Set();

new EventSource(page.stream, { withCredentials: true }).addEventListener("message", ({ data, lastEventId }) => {
  document.getElementById("empty").hidden = true;
  const item = document.createElement("li");
  item.dataset.id = lastEventId;
  // It has its place now, whenever it is decrypted: that may take a request for a new key.
  document.getElementById("notes").prepend(item);
  open(item, data);
});

async function open(item, data) {
  try {
    const content = await keys.decrypt(data);
    const note = content.json();
    // It is whole, but is it what it was sent as? The hub could repeat it, or move it to another topic.
    if (note.topic !== page.topic) throw new Error("this note was written for another topic");
    if (seen.has(note.id)) return item.remove();
    seen.add(note.id);
    const sent = new Date(note.sent).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    fill(item, note.text, `${note.from}, ${sent}`, `${content.alg}, key ${content.kid.slice(0, 8)}…`);
  } catch (error) {
    item.classList.add("unreadable");
    fill(item, "This note cannot be read.", error.message);
  }
}

function fill(item, text, ...details) {
  item.replaceChildren(paragraph("text", text), paragraph("details", details.join(" · ")));
}

function paragraph(name, text) {
  const element = document.createElement("p");
  element.className = name;
  element.textContent = text;
  return element;
}

document.getElementById("write").addEventListener("submit", async (event) => {
  event.preventDefault();
  const box = document.getElementById("text");
  if (await post("/notes", { text: box.value })) box.value = "";
});

document.getElementById("change").addEventListener("submit", (event) => {
  event.preventDefault();
  post(page.keys, {});
});

async function post(path, body) {
  const problem = document.getElementById("problem");
  try {
    const headers = { "Content-Type": "application/json" };
    const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
    problem.hidden = response.ok;
    if (!response.ok) problem.textContent = (await response.json()).error;
    return response.ok;
  } catch {
    problem.hidden = false;
    problem.textContent = "The application does not answer.";
    return false;
  }
}
