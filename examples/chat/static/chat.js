// The chat's page: what is shown, and what the person does.

import { connect, presence } from "mercure";

const { me, rooms: known, now } = JSON.parse(document.getElementById("page").textContent);
const rooms = Object.fromEntries(known); // name -> what it is about
const $ = (id) => document.getElementById(id);
const GROUPED = 5 * 60_000; // milliseconds within which messages of one author belong together
const STATES = { open: "Live", offline: "Offline", refused: "Signed out" };

const conversations = new Map(); // "room:lobby" or "user:ada" -> conversation
const names = new Map([[me.id, me.name]]); // as people write them
const readUntil = load(localStorage, "read") ?? { since: now }; // what came before the first visit is not new
const drafts = load(sessionStorage, "drafts") ?? {}; // they outlive a reload, and signing in again
let online = new Set(); // who has the chat open
let here = new Set(); // who is in the room
let room; // the one that this person is in, also while a private conversation is shown
let leaveRoom = () => {};
let current; // the conversation that is shown
let isLive = false; // all of the history has arrived
for (const [name] of known) conversation("room", name);

// -- from the hub -------------------------------------------------------------------------------

const mercure = connect();

mercure.on("message", (update) => {
  const message = { id: update.id, ...update.json() };
  const { from, to, sent } = message;
  names.set(from.id, from.name);
  const talk = message.room
    ? conversation("room", message.room)
    : conversation("user", from.id === me.id ? to : from.id);
  talk.messages.push(message);
  if (talk === current && !isLookedAt() && from.id !== me.id && sent > until(talk)) talk.newFrom ??= update.id;
  show();
});

mercure.addEventListener("state", ({ detail: { state, until } }) => {
  isLive ||= state === "open";
  showState(state, until);
  if (isLive) show();
});

follow("/here", (people) => (online = people));

/** Have somebody told who is at a topic. */
function follow(topic, tell) {
  const take = (people) => {
    for (const { user, payload } of people) names.set(user, payload.name);
    tell(new Set(people.map(({ user }) => user)));
    show();
  };
  return presence(topic, {
    here: take,
    joining: (_, people) => take(people),
    leaving: (_, people) => take(people),
  });
}

// -- conversations ------------------------------------------------------------------------------

function conversation(kind, id) {
  const key = `${kind}:${id}`;
  if (!conversations.has(key)) conversations.set(key, { key, kind, id, messages: [], shown: 0, newFrom: null });
  return conversations.get(key);
}

const titleOf = ({ kind, id }) => (kind === "room" ? id : names.get(id) ?? id);
const pathOf = ({ kind, id }) => `/${kind === "room" ? "rooms" : "people"}/${encodeURIComponent(id)}`;
const until = ({ key }) => readUntil[key] ?? readUntil.since;
const unreadIn = (talk) => talk.messages.filter(({ sent, from }) => sent > until(talk) && from.id !== me.id);
const isLookedAt = () =>
  document.visibilityState === "visible" && document.hasFocus() && !document.body.dataset.panel;

function fromAddress() {
  const [, kind, name] = location.pathname.split("/");
  return conversation(kind === "people" ? "user" : "room", decodeURIComponent(name));
}

function open(talk, isNew = true) {
  if (isNew && talk !== current) history.pushState(null, "", pathOf(talk));
  if (talk !== current) {
    current = talk;
    talk.newFrom = unreadIn(talk)[0]?.id ?? null;
    talk.shown = 0;
    $("messages").replaceChildren();
    $("text").value = drafts[talk.key] ?? "";
    showProblem("");
    fit();
  }
  const before = room;
  room = talk.kind === "room" ? talk.id : room ?? known[0][0];
  if (room !== before) {
    leaveRoom();
    leaveRoom = follow(`/rooms/${room}`, (people) => (here = people));
  }
  showPanel("");
  show();
  if (matchMedia("(hover: hover)").matches) $("text").focus(); // no keyboard that covers a phone's screen
}

async function send() {
  const [talk, text] = [current, $("text").value.trim()];
  if (!text || $("send").disabled) return;
  $("send").disabled = true;
  showProblem("");
  try {
    const response = await fetch("/messages", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(talk.kind === "room" ? { room: talk.id, text } : { to: talk.id, text }),
    });
    if (!response.ok) throw new Error((await response.json()).error);
    keepDraft(talk, "");
    if (talk === current) $("text").value = "";
    fit();
  } catch (error) {
    const isAway = error instanceof TypeError;
    showProblem(isAway ? "The server cannot be reached. Your message is still here." : error.message);
  }
  $("send").disabled = mercure.state === "refused";
  $("text").focus();
}

function keepDraft({ key }, text) {
  if (text) drafts[key] = text;
  else delete drafts[key];
  save(sessionStorage, "drafts", drafts);
}

// -- showing ------------------------------------------------------------------------------------

/** Make an element. All text goes in as text, so nobody can write HTML into the page. */
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== false) element.setAttribute(name, value);
  element.append(...children.filter(Boolean));
  return element;
}

let isShowing = false;

/** Show what is known, once for all that changes at one moment. */
function show() {
  if (isShowing) return;
  isShowing = true;
  setTimeout(() => {
    isShowing = false;
    showAll();
  }, 10);
}

function showAll() {
  const last = current.messages.at(-1)?.sent;
  if (isLive && isLookedAt() && last > until(current)) {
    readUntil[current.key] = last;
    save(localStorage, "read", readUntil);
  }
  const talks = [...conversations.values()];
  const latest = (talk) => talk.messages.at(-1)?.sent ?? "~"; // just opened: first
  const people = talks.filter((talk) => talk.kind === "user" && (talk.messages.length || talk === current));
  fill("rooms", talks.filter(({ kind }) => kind === "room").map(entry));
  fill("private", people.sort((a, b) => latest(b).localeCompare(latest(a))).map(entry));
  fill("here", sorted(here).map(personEntry));
  fill("elsewhere", sorted(online).filter((id) => !here.has(id)).map(personEntry));
  $("count").textContent = here.size || "";
  $("here-title").textContent = `In #${room}`;
  const title = titleOf(current);
  $("title").textContent = current.kind === "room" ? `#${title}` : title;
  $("about").textContent =
    current.kind === "room" ? rooms[current.id] : `Only you two${online.has(current.id) ? ", online now" : ""}`;
  $("text").placeholder = $("text").ariaLabel = `Write to ${current.kind === "room" ? "all in " : ""}${title}`;
  const count = talks.reduce((sum, talk) => sum + unreadIn(talk).length, 0);
  $("elsewhere-unread").textContent = count - unreadIn(current).length;
  $("elsewhere-unread").hidden = count === unreadIn(current).length;
  document.title = `${count ? `(${count}) ` : ""}${title} – Quicksilver`;
  showMessages();
}

function entry(talk) {
  const count = unreadIn(talk).length;
  const badge = count > 0 && make("b", { class: "badge" }, String(count), make("span", { class: "unseen" }, " unread"));
  return link(talk, { "aria-current": talk === current && "page", "data-unread": count > 0 && "yes" }, badge);
}

function personEntry(id) {
  if (id !== me.id) return link(conversation("user", id), { "data-person": id });
  return make("li", {}, make("span", { "data-person": id }, avatar(id), `${names.get(id)} (you)`));
}

function link(talk, attributes, ...more) {
  const sign = talk.kind === "room" ? make("i", { class: "hash" }, "#") : avatar(talk.id);
  const named = { ...attributes, href: pathOf(talk), "data-key": talk.key };
  return make("li", {}, make("a", named, sign, make("span", { class: "name" }, titleOf(talk)), ...more));
}

function avatar(id) {
  const sign = make("i", { class: "avatar", "aria-hidden": "true" }, [...(names.get(id) ?? id)][0].toUpperCase());
  if (online.has(id)) sign.dataset.online = "yes";
  sign.style.setProperty("--hue", hue(id));
  return sign;
}

function hue(id) {
  let hash = 7;
  for (const character of id) hash = (hash * 31 + character.codePointAt(0)) % 3600;
  return String((hash * 137.508) % 360); // the golden angle: names that differ little look different
}

const sorted = (people) => [...people].sort((a, b) => (b === me.id) - (a === me.id) || a.localeCompare(b));

/** Replace what has changed in a list: focus stays where it is. */
function fill(id, items) {
  const list = $(id);
  items.forEach((item, index) => {
    const old = list.children[index];
    if (old?.isEqualNode(item)) return;
    const hadFocus = old?.contains(document.activeElement);
    if (old) old.replaceWith(item);
    else list.append(item);
    if (hadFocus) item.querySelector("a")?.focus();
  });
  while (list.children.length > items.length) list.lastChild.remove();
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });

function showMessages() {
  const [log, { messages }] = [$("log"), current];
  $("empty").hidden = messages.length > 0;
  $("empty").textContent = isLive ? "Nobody has written here yet. Be the first." : "Fetching what was said before";
  const isAtEnd = current.shown === 0 || log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  const rows = [];
  for (; current.shown < messages.length; current.shown++) rows.push(...row(messages, current.shown));
  $("messages").append(...rows);
  if (rows.length && isAtEnd) log.scrollTop = log.scrollHeight;
  log.ariaLive = isLive ? "polite" : "off"; // old messages are not read aloud
}

function row(messages, index) {
  const { id, from, text, sent } = messages[index];
  const [before, date] = [messages[index - 1], new Date(sent)];
  const isNewDay = !before || new Date(before.sent).toDateString() !== date.toDateString();
  const isNew = id === current.newFrom;
  const isContinued = !isNewDay && !isNew && before.from.id === from.id && date - new Date(before.sent) < GROUPED;
  const author = make("strong", {}, from.name);
  author.style.setProperty("--hue", hue(from.id));
  const time = make("time", { datetime: sent, title: date.toLocaleString() }, clock.format(date));
  return [
    isNewDay && make("li", { class: "day" }, calendar.format(date)),
    isNew && make("li", { class: "day new" }, "New"),
    make(
      "li",
      { class: isContinued ? "message continued" : "message" },
      !isContinued && avatar(from.id),
      make("p", { class: isContinued ? "unseen" : "by" }, author, " ", time),
      make("p", { class: "text" }, text),
    ),
  ].filter(Boolean);
}

function showProblem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

let countdown = 0;

function showState(state, next) {
  clearInterval(countdown);
  const tick = () => {
    const seconds = state === "offline" ? `, again in ${Math.max(0, Math.ceil((next - Date.now()) / 1000))} s` : "";
    $("state").textContent = (STATES[state] ?? "Connecting") + seconds;
  };
  tick();
  if (state === "offline") countdown = setInterval(tick, 1000);
  $("state").dataset.state = state;
  $("send").disabled = state === "refused";
  if (state === "refused") $("state").append(" · ", make("a", { href: "/sign-in" }, "sign in again"));
}

// -- what the person does -----------------------------------------------------------------------

document.addEventListener("click", (event) => {
  const target = event.target.closest("a[data-key], [data-panel]");
  if (!target || event.metaKey || event.ctrlKey || event.shiftKey) return;
  const [kind, ...id] = (target.dataset.key ?? "").split(":");
  if (kind) {
    event.preventDefault();
    open(conversation(kind, id.join(":")));
  } else {
    const name = target === document.body ? "" : target.dataset.panel; // beside an open panel: close it
    if (target !== document.body || !event.target.closest(".side")) showPanel(name);
  }
});

/** On narrow screens: the lists at the sides, one of them or none. */
function showPanel(name) {
  if (name) document.body.dataset.panel = name;
  else delete document.body.dataset.panel;
  for (const button of document.querySelectorAll("button[data-panel]")) {
    button.ariaExpanded = String(button.dataset.panel === name);
  }
  if (name) $(name).focus();
}

$("write").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
$("text").addEventListener("input", () => {
  keepDraft(current, $("text").value);
  fit();
});

function fit() {
  $("text").style.height = "auto";
  $("text").style.height = `${$("text").scrollHeight}px`;
}

addEventListener("popstate", () => open(fromAddress(), false));
addEventListener("keydown", (event) => event.key === "Escape" && showPanel(""));
addEventListener("focus", show);
addEventListener("blur", () => (current.newFrom = null)); // what comes from now on is new
addEventListener("storage", () => {
  Object.assign(readUntil, load(localStorage, "read")); // another tab has shown something
  show();
});

function load(storage, name) {
  return JSON.parse(storage.getItem(`${name}:${me.id}`));
}

function save(storage, name, value) {
  storage.setItem(`${name}:${me.id}`, JSON.stringify(value));
}

open(fromAddress(), false);
