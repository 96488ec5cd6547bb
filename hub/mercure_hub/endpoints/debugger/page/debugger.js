// The debugger: wires the page to the hub that serves it.

import { byId, make, pretty, show, tabs } from "./dom.js";
import { Presence } from "./presence.js";
import { Stream } from "./stream.js";
import { decode, render, span } from "./token.js";

const MOST_EVENTS = 500;
const KINDS = { match: "exact", match_urlpattern: "URL Pattern", topic: "topic of 0.x" };
const given = document.body.dataset;
const hub = given.hub;
const absolute = new URL(hub, location.href).href;
const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;
const tokenText = () => byId("pasted").value.trim().replace(/^Bearer\s+/i, "");

let stream = null;
let events = 0;

// -- who asks ----------------------------------------------------------------------------------

function request() {
  const who = chosen("who");
  const headers = who === "token" && tokenText() ? { Authorization: `Bearer ${tokenText()}` } : {};
  return { headers, credentials: who === "cookie" ? "same-origin" : "omit" };
}

async function ask(topic = "") {
  const query = topic ? `?${new URLSearchParams({ topic })}` : "";
  const response = await fetch(`${hub.replace(/\/$/, "")}/debugger/token${query}`, { ...request(), cache: "no-store" });
  if (!response.ok) throw new Error(await detail(response));
  return response.json();
}

async function detail(response) {
  try {
    const document = await response.json();
    return document.detail ?? document.title ?? response.statusText;
  } catch {
    return response.statusText || "the answer cannot be read";
  }
}

// What the hub refuses, in its own words, and for a token the cause.
async function problem(place, response, role) {
  const children = [make("p", {}, make("strong", {}, String(response.status)), ` ${await detail(response)}`)];
  if (response.status === 401 && chosen("who") !== "nothing") {
    try {
      const verdict = await ask();
      const cause = verdict[role]?.cause;
      if (verdict.source === null) children.push(make("p", {}, chosen("who") === "cookie" ? "The browser sent no cookie for this path." : "Paste a token under Token."));
      if (cause) children.push(make("p", {}, cause));
      if (verdict.source) children.push(make("button", { type: "button", class: "quiet", onclick: () => { openTab("token"); explain(); } }, "See the token"));
    } catch {
      // the refusal itself is shown
    }
  }
  show(byId(place), ...children);
}

const unreachable = (place) => show(byId(place), make("p", {}, "The hub cannot be reached."));

// -- subscribe ---------------------------------------------------------------------------------

function addMatcher(kind = "match", value = "") {
  const names = given.protocol === "1.0" ? ["match", "match_urlpattern"] : given.protocol === "0.x" ? ["topic"] : Object.keys(KINDS);
  const select = make("select", { "aria-label": "Type of matcher" }, ...names.map((name) => make("option", { value: name, selected: name === kind }, KINDS[name])));
  const input = make("input", { "aria-label": "Topic or pattern", placeholder: "* for all topics", autocomplete: "off", spellcheck: "false", autocapitalize: "off", required: true });
  input.value = value;
  const remove = make("button", { type: "button", class: "quiet small", "aria-label": "Remove this matcher", onclick: () => {
    item.remove();
    if (byId("matchers").children.length === 0) addMatcher().focus();
    else byId("add-matcher").focus();
    curl();
  } }, "×");
  const item = make("li", { class: "matcher" }, select, input, remove);
  byId("matchers").append(item);
  return input;
}

function query() {
  const found = new URLSearchParams();
  for (const item of byId("matchers").children) {
    const value = item.querySelector("input").value;
    if (value) found.append(item.querySelector("select").value, value);
  }
  const start = chosen("start");
  if (start === "earliest") found.set("last_event_id", "earliest");
  if (start === "after" && byId("after").value) found.set("last_event_id", byId("after").value);
  return found;
}

function curl() {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const header = chosen("who") === "token" ? ` -H "Authorization: Bearer $TOKEN"` : "";
  byId("curl").textContent = `curl -N${header} ${quoted(`${absolute}?${query()}`)}`;
}

function state(name, pause) {
  const words = {
    closed: "Not subscribed",
    connecting: "Connecting",
    live: "Live",
    waiting: `Interrupted, again in ${span((pause ?? 0) / 1000)}`,
  };
  byId("state").dataset.state = name;
  byId("state-text").textContent = words[name];
  const open = name !== "closed";
  byId("disconnect").hidden = !open;
  byId("connect").textContent = open ? "Subscribe anew" : "Subscribe";
}

function subscribe(event) {
  event.preventDefault();
  stream?.close();
  show(byId("subscribe-problem"));
  curl();
  const wanted = query();
  if (!wanted.has("last_event_id")) wanted.set("last_event_id", ""); // the hub answers with where that is
  stream = new Stream(`${hub}?${wanted}`, request(), {
    state,
    open: () => show(byId("subscribe-problem")),
    event: addEvent,
    refused: (response) => problem("subscribe-problem", response, "subscribe"),
  });
}

function addEvent(event) {
  events += 1;
  byId("count").textContent = events.toLocaleString();
  byId("empty").hidden = true;
  const now = new Date();
  const after = make("button", { type: "button", class: "quiet small", onclick: () => {
    byId("after").value = event.id;
    document.querySelector('input[name="start"][value="after"]').click();
    openTab("subscribe");
  } }, "Replay from here");
  const item = make("li", { class: "event" },
    make("div", { class: "event-top" },
      make("span", { class: "type" }, event.type),
      make("time", { datetime: now.toISOString() }, now.toLocaleTimeString()),
      make("code", { class: "id" }, event.id || "no id"),
      event.id ? after : null),
    make("pre", { tabindex: "0" }, pretty(event.data)));
  const list = byId("events");
  list.prepend(item);
  while (list.children.length > MOST_EVENTS) list.lastElementChild.remove();
}

// -- publish -----------------------------------------------------------------------------------

async function publish(event) {
  event.preventDefault();
  show(byId("published"));
  show(byId("publish-problem"));
  const form = new URLSearchParams();
  for (const topic of byId("topics").value.split("\n")) if (topic.trim()) form.append("topic", topic.trim());
  form.set("data", byId("data").value);
  if (byId("private").checked) form.set("private", "on");
  for (const [name, id] of [["id", "event-id"], ["type", "event-type"], ["retry", "retry"]]) {
    if (byId(id).value) form.set(name, byId(id).value);
  }
  try {
    const response = await fetch(hub, { ...request(), method: "POST", body: form });
    if (response.ok) show(byId("published"), "Published as ", make("code", {}, await response.text()));
    else await problem("publish-problem", response, "publish");
  } catch {
    unreachable("publish-problem");
  }
}

// -- token -------------------------------------------------------------------------------------

async function explain(event) {
  event?.preventDefault();
  show(byId("token-problem"));
  const read = chosen("who") === "token" ? decode(tokenText()) : null;
  if (chosen("who") === "token" && !tokenText()) {
    render(null, null);
    show(byId("token-problem"), make("p", {}, "Paste a token first."));
    byId("pasted").focus();
    return;
  }
  render(null, read);
  try {
    render(await ask(byId("asked-topic").value), read);
  } catch (error) {
    show(byId("token-problem"), make("p", {}, error instanceof TypeError ? "The hub cannot be reached." : error.message));
  }
}

// -- presence ----------------------------------------------------------------------------------

const presence = new Presence(hub, given.protocol === "0.x", request, (response) => {
  byId("unwatch").hidden = true;
  return problem("presence-problem", response, "subscribe");
});

async function watch(event) {
  event.preventDefault();
  show(byId("presence-problem"));
  try {
    byId("unwatch").hidden = !(await presence.start());
  } catch {
    unreachable("presence-problem");
  }
}

// -- the page ----------------------------------------------------------------------------------

const openTab = tabs(document.querySelector('[role="tablist"]'));

byId("hub").textContent = given.url;
byId("presence-topic").textContent = `${hub.replace(/\/$/, "")}/subscriptions`;
byId("subscribe").addEventListener("submit", subscribe);
byId("subscribe").addEventListener("input", curl);
byId("add-matcher").addEventListener("click", () => addMatcher().focus());
byId("disconnect").addEventListener("click", () => { stream?.close(); byId("connect").focus(); });
byId("publish").addEventListener("submit", publish);
byId("token").addEventListener("submit", explain);
byId("presence").addEventListener("submit", watch);
byId("unwatch").addEventListener("click", () => { presence.stop(); byId("unwatch").hidden = true; byId("watch").focus(); });
byId("clear").addEventListener("click", () => {
  show(byId("events"));
  events = 0;
  byId("count").textContent = "0";
  byId("empty").hidden = false;
});
byId("pasted").addEventListener("input", () => {
  document.querySelector('input[name="who"][value="token"]').checked = true;
  if (decode(tokenText())) explain();
  curl();
});
for (const input of document.querySelectorAll('input[name="start"]')) {
  input.addEventListener("change", () => {
    byId("after").hidden = chosen("start") !== "after";
    if (!byId("after").hidden) byId("after").focus();
  });
}
for (const input of document.querySelectorAll('input[name="who"]')) {
  input.addEventListener("change", () => {
    curl();
    show(byId("token-problem"));
    if (!byId("token").hidden && chosen("who") !== "nothing") explain();
  });
}

addMatcher(given.protocol === "0.x" ? "topic" : "match", "");
if (given.subscriptions !== "true") {
  show(byId("presence"), make("p", { class: "hint" }, "Active subscriptions are off. MERCURE_SUBSCRIPTIONS=1 switches them on."));
}
if (given.token) {
  byId("playground").hidden = false;
  byId("pasted").value = given.token;
  delete given.token;
  document.querySelector('input[name="who"][value="token"]').checked = true;
  document.querySelector("#matchers input").value = "*";
  byId("topics").value = "greetings/1";
  byId("data").value = '{"hello": "world"}';
  explain();
}
curl();
