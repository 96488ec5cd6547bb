// A page of a single-page application, as its authors write it; compiled in strict mode, then bundled.

import { connect, subscribe, type Mercure, type Session, type Update } from "flask-mercure";
import { followRun } from "flask-mercure/runs";

declare global {
  interface Window {
    begin: () => Promise<void>;
    mercure: Mercure;
    seen: { updates: Order[]; grace: Order[]; states: string[] };
  }
}

interface Order {
  state: string;
}

const show = (update: Update): void => {
  window.seen.updates.push(update.json<Order>());
};

window.seen = { updates: [], grace: [], states: [] };
window.begin = async () => {
  const session: Session = await (await fetch("/session?topic=orders/ada")).json();
  const mercure = connect(session, { heartbeat: 40 });
  const stop: () => void = subscribe("orders/ada", show); // on the page's connection, which this is
  subscribe("orders/grace", (update) => window.seen.grace.push(update.json()));
  mercure.addEventListener("state", ({ detail }) => window.seen.states.push(detail.state));
  mercure.addEventListener("gap", ({ detail: { reason } }) => reason === "start" && stop());
  window.mercure = mercure;
};

// Without a session:
export const other = (url: string): Mercure =>
  connect(new URL(url), { topics: ["a", { match: "/b/:id", match_type: "urlpattern" }], token: async () => "t" });
export const templated = (): Mercure => connect();
export const follow = (topic: string): (() => void) => followRun(topic, { end: ({ kind }) => console.log(kind) });

// @ts-expect-error there is no such transport
export const wrong = (): Mercure => connect({ transport: "carrier pigeon" });
// @ts-expect-error a session has the hub's URL
export const incomplete: Session = { topics: ["a"] };
