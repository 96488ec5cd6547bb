// Real-time updates from a Mercure hub, on one connection for all tabs of the browser.
//
//     import { on, subscribe } from "mercure";
//
//     on("message", (update) => show(update.json()));
//     subscribe("orders/42", (update) => showOrder(update.json()));

export { Mercure, Update } from "./connection.js";
export { EventSource } from "./event_source.js";
export { connect, on, presence, presenceCount, subscribe } from "./page.js";
export { progress } from "./progress.js";
