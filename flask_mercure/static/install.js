// Gives libraries the page's one connection: those that open an EventSource, and htmx 4, which fetches.

import { fetchEvents } from "./event_response.js";
import { EventSource } from "./event_source.js";

window.EventSource = EventSource;
document.addEventListener("htmx:config:request", ({ detail: { ctx } }) => {
  ctx.fetch ??= fetchEvents;
  // Tabs in the background share the connection of those in front, so that there is nothing to save.
  window.htmx.config.sse = { pauseOnBackground: false, ...window.htmx.config.sse };
});
