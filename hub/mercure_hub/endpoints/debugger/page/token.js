// What a token says, and what the hub says of it.

import { byId, make, show } from "./dom.js";

const DETAIL = "https://mercure.rocks/authorization-detail";
const OLD = "https://mercure.rocks/";

function part(text) {
  const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
  return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
}

export function decode(token) {
  const parts = token.split(".");
  if (parts.length !== 3) return null;
  try {
    return { header: part(parts[0]), claims: part(parts[1]) };
  } catch {
    return null;
  }
}

// Rows of what a token grants, in the words of either generation of the protocol.
function grants(claims) {
  const rows = [];
  const details = Array.isArray(claims.authorization_details) ? claims.authorization_details : [];
  for (const detail of details) {
    if (detail?.type !== DETAIL || !Array.isArray(detail.topics) || !Array.isArray(detail.actions)) continue;
    for (const topic of detail.topics) {
      rows.push({
        actions: detail.actions.join(", "),
        type: topic?.match_type ?? "exact",
        match: String(topic?.match),
        payload: detail.payload,
      });
    }
  }
  const old = claims[OLD] ?? claims.mercure;
  if (details.length === 0 && typeof old === "object" && old !== null) {
    for (const action of ["publish", "subscribe"]) {
      for (const selector of Array.isArray(old[action]) ? old[action] : []) {
        const payload = action === "subscribe" ? old.payload : undefined;
        rows.push({ actions: action, type: "topic (0.x)", match: String(selector), payload });
      }
    }
  }
  return rows;
}

const time = (seconds) => new Date(seconds * 1000).toLocaleString();

export function span(seconds) {
  const whole = Math.max(0, Math.round(Math.abs(seconds)));
  const [d, h, m, s] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60];
  if (d > 0) return `${d} d ${h} h`;
  if (h > 0) return `${h} h ${m} min`;
  return m > 0 ? `${m} min ${s} s` : `${s} s`;
}

function roleLine(role, found) {
  if (!found) return null;
  const name = role === "publish" ? "Publishing" : "Subscribing";
  const line = make("p", { class: "role", "data-accepted": String(found.accepted) });
  line.append(make("strong", {}, `${name}: ${found.accepted ? "accepted" : "refused"}`));
  if (found.cause) line.append(make("span", {}, found.cause));
  if (found.covers !== undefined) {
    const what = role === "publish" ? "publish on" : "read private updates on";
    const words = found.reserved ? "the topic is the hub's own: nobody may publish there" : `it ${found.covers ? "may" : "may not"} ${what} this topic`;
    line.append(make("span", { "data-covers": String(found.covers) }, words));
  }
  return line;
}

let countdown = 0;

export function render(verdict, read) {
  clearInterval(countdown);
  const claims = read?.claims ?? verdict?.claims;
  const header = read?.header ?? verdict?.header;
  show(
    byId("verdict"),
    ...(verdict ? [roleLine("publish", verdict.publish), roleLine("subscribe", verdict.subscribe)] : []),
    verdict && verdict.source === null ? make("p", { class: "role" }, "The request had no token.") : null,
  );
  if (!claims || typeof claims !== "object") {
    show(byId("claims"));
    return;
  }
  const expiry = make("p", { class: "expiry" });
  // The hub's clock decides: the difference to this machine's is taken into account.
  const ahead = verdict ? verdict.now - Date.now() / 1000 : 0;
  const tell = () => {
    if (typeof claims.exp !== "number") {
      expiry.textContent = "It has no exp: it never expires.";
      return;
    }
    const left = claims.exp - (Date.now() / 1000 + ahead);
    expiry.dataset.over = String(left <= 0);
    expiry.textContent = left > 0 ? `Expires in ${span(left)}, ${time(claims.exp)}` : `Expired ${span(left)} ago, ${time(claims.exp)}`;
  };
  tell();
  countdown = setInterval(tell, 1000);
  const rows = grants(claims);
  const table = make("table", {},
    make("caption", {}, "What it asks for"),
    make("thead", {}, make("tr", {}, ...["action", "matcher", "type"].map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, make("td", {}, row.actions), make("td", {}, make("code", {}, row.match)), make("td", {}, row.type)))),
  );
  const payloads = [...new Set(rows.filter((row) => row.payload != null).map((row) => JSON.stringify(row.payload, null, 2)))];
  show(
    byId("claims"),
    expiry,
    rows.length > 0 ? make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "What the token asks for" }, table) : make("p", { class: "hint" }, "It names no topics."),
    payloads.length > 0 ? make("h3", {}, "Payload for presence") : null,
    ...payloads.map((payload) => make("pre", { tabindex: "0" }, payload)),
    make("h3", {}, "Claims"),
    make("pre", { tabindex: "0" }, JSON.stringify(claims, null, 2)),
    make("h3", {}, "Header"),
    make("pre", { tabindex: "0" }, JSON.stringify(header, null, 2)),
  );
}
