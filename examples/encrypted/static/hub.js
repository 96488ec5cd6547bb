// Shows the updates as they come from the hub. Without a key, this is all there is to see.

import { on } from "mercure";
import { protectedHeader } from "./jwe.js";

on("message", ({ data, topics }) => {
  const item = document.querySelector("template").content.cloneNode(true).firstChild;
  const [sealed, header, details] = item.children;
  sealed.textContent = data;
  header.textContent = headerOf(data);
  details.textContent = `${topics} · ${data.length} characters`;
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
