// Active subscriptions: the API's list, then its events from the same point on.

import { byId, make, show } from "./dom.js";
import { Stream } from "./stream.js";

export class Presence {
  constructor(hub, old, request, refused) {
    Object.assign(this, { hub, old, request, refused });
    this.known = new Map();
    this.stream = null;
  }

  async start() {
    this.stop();
    const base = `${this.hub.replace(/\/$/, "")}/subscriptions`;
    const response = await fetch(base, { ...this.request(), cache: "no-store" });
    if (!response.ok) {
      await this.refused(response, `${base}/x`);
      return false;
    }
    const cursor = response.headers.get("Mercure-Last-Event-ID") ?? "";
    const list = (await response.json()).subscriptions ?? [];
    this.known = new Map(list.map((one) => [one.id, one]));
    this.render();
    const all = this.old ? ["topic", `${base}/{topic}/{subscriber}`] : ["match_urlpattern", `${base}/*`];
    const query = new URLSearchParams([all]);
    if (cursor) query.set("last_event_id", cursor);
    this.stream = new Stream(`${this.hub}?${query}`, this.request(), {
      open: () => {},
      state: () => {},
      event: (event) => this.take(event),
      refused: (refusal) => this.refused(refusal),
    });
    return true;
  }

  stop() {
    this.stream?.close();
    this.stream = null;
    this.known.clear();
    this.render();
  }

  take(event) {
    let one;
    try {
      one = JSON.parse(event.data);
    } catch {
      return;
    }
    if (typeof one?.id !== "string") return;
    if (one.active) this.known.set(one.id, one);
    else this.known.delete(one.id);
    this.render();
  }

  render() {
    const all = [...this.known.values()];
    const subscribers = new Set(all.map((one) => one.subscriber)).size;
    byId("presence-count").textContent = this.stream || all.length > 0 ? `${all.length} subscriptions of ${subscribers} subscribers` : "";
    show(byId("people"), ...all.map((one) => make("li", {},
      make("code", { class: "match" }, String(one.match ?? one.topic)),
      make("span", { class: "kind" }, String(one.match_type ?? "topic (0.x)")),
      make("span", { class: "subscriber" }, String(one.subscriber)),
      one.payload !== undefined ? make("pre", { tabindex: "0" }, JSON.stringify(one.payload, null, 2)) : null,
    )));
  }
}
