// Shows the updates as they come from the hub. Without a key, this is all there is to see.

import { protectedHeader } from "./jwe.js";

const page = JSON.parse(document.getElementById("page").textContent);

new EventSource(page.stream, { withCredentials: true }).addEventListener("message", ({ data, lastEventId }) => {
  document.getElementById("empty").hidden = true;
  const item = document.createElement("li");
  item.dataset.id = lastEventId;
  item.append(element("code", "sealed", data), element("code", "header", headerOf(data)));
  item.append(element("p", "details", `${page.topic} · ${data.length} characters`));
  document.getElementById("updates").prepend(item);
});

function headerOf(data) {
  try {
    const { alg, enc, cty, kid } = protectedHeader(data);
    return JSON.stringify({ alg, enc, cty, kid });
  } catch {
    return "no header";
  }
}

function element(kind, name, text) {
  const made = document.createElement(kind);
  made.className = name;
  made.textContent = text;
  return made;
}
