// The chat's page: what is shown, and what the person does. The hub is in stream.js.

import { Stream } from "./stream.js";

const page = JSON.parse(document.getElementById("page").textContent);
const $ = (id) => document.getElementById(id);

const PAGE_SIZE = 150; // messages shown at first
const GROUP_TIME = 5 * 60_000; // milliseconds within which messages of one author belong together
const STATES = {
  connecting: "Connecting",
  live: "Live",
  waiting: "Offline",
  held: "Waiting for a connection",
  "signed-out": "Signed out",
};

// -- what is known ------------------------------------------------------------------------------

const conversations = new Map(); // "room:lobby" or "user:ada" → conversation
const names = new Map([[page.me.id, page.me.name]]); // as people write them
let current; // the conversation that is shown
let room; // the room that the person is in, which stays while a private conversation is shown
let isLoaded = false; // the history has arrived
let isSignedOut = false;

const stream = new Stream({ url: page.stream, pages: `${page.topics}/pages/`, renew });
const readUntil = loadReadUntil();
const drafts = loadDrafts();

function conversation(kind, id) {
  const key = `${kind}:${id}`;
  if (!conversations.has(key)) {
    const shown = { key, kind, id, messages: [], limit: PAGE_SIZE, newFrom: null, draft: drafts[key] ?? "" };
    conversations.set(key, shown);
  }
  return conversations.get(key);
}

const abouts = new Map(page.rooms.map(({ id, about }) => [id, about]));
for (const id of abouts.keys()) conversation("room", id);

function titleOf({ kind, id }) {
  return kind === "room" ? id : names.get(id) ?? id;
}

function unreadIn({ key, messages }) {
  const until = readUntil[key] ?? readUntil.since;
  let count = 0;
  for (let i = messages.length - 1; i >= 0 && messages[i].sent > until; i--) {
    if (messages[i].from.id !== page.me.id) count++;
  }
  return count;
}

function markRead(shown) {
  const last = shown.messages.at(-1);
  if (!last || last.sent <= (readUntil[shown.key] ?? readUntil.since)) return;
  readUntil[shown.key] = last.sent;
  saveReadUntil();
}

// What has been read is remembered on this device; what came before the first visit counts as read.
function loadReadUntil() {
  try {
    return JSON.parse(localStorage.getItem(`read:${page.me.id}`)) ?? { since: page.now };
  } catch {
    return { since: page.now };
  }
}

function saveReadUntil() {
  try {
    localStorage.setItem(`read:${page.me.id}`, JSON.stringify(readUntil));
  } catch {
    // Private windows may refuse it: unread counts then start anew with each visit.
  }
}

// What was not sent yet outlives a reload, and signing in again.
function loadDrafts() {
  try {
    return JSON.parse(sessionStorage.getItem(`drafts:${page.me.id}`)) ?? {};
  } catch {
    return {};
  }
}

function keepDraft(shown, text) {
  shown.draft = text;
  if (text) drafts[shown.key] = text;
  else delete drafts[shown.key];
  try {
    sessionStorage.setItem(`drafts:${page.me.id}`, JSON.stringify(drafts));
  } catch {
    // then it lasts as long as the page
  }
}

addEventListener("storage", (event) => {
  if (event.key !== `read:${page.me.id}`) return;
  Object.assign(readUntil, loadReadUntil());
  show();
});

// -- from the hub -------------------------------------------------------------------------------

stream.addEventListener("message", ({ detail: { id, data } }) => {
  const { from, to, text, sent } = data;
  names.set(from.id, from.name);
  const shown = data.room
    ? conversation("room", data.room)
    : conversation("user", from.id === page.me.id ? to : from.id);
  shown.messages.push({ id, from, text, sent });
  if (shown === current && isLoaded && !isLookedAt() && from.id !== page.me.id && !shown.newFrom) {
    $("messages").querySelector(".new")?.remove();
    shown.newFrom = id;
  }
  show();
});

stream.addEventListener("presence", () => {
  for (const [id, { name }] of stream.people()) names.set(id, name);
  show();
});

stream.addEventListener("state", ({ detail: { state, until } }) => {
  showState(state, until);
  if (state !== "live" || isLoaded) return;
  isLoaded = true;
  if (!localStorage.getItem(`read:${page.me.id}`)) saveReadUntil();
  current.newFrom = firstUnread(current);
  show();
});

// -- to the app ---------------------------------------------------------------------------------

async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json" },
    body: JSON.stringify(body ?? {}),
  });
  const answer = await response.json().catch(() => ({}));
  return { status: response.status, ok: response.ok, ...answer };
}

let renewal = setTimeout(renewInTime, page.lifetime * 800);

async function renew() {
  const { ok, status, lifetime } = await post("/session");
  if (status === 401 || status === 403) return false;
  if (!ok) throw new Error(`${status} for a new cookie`);
  clearTimeout(renewal);
  renewal = setTimeout(renewInTime, lifetime * 800);
  return true;
}

async function renewInTime() {
  try {
    if (await renew()) stream.reopen();
    else signedOut();
  } catch {
    renewal = setTimeout(renewInTime, 5000);
  }
}

function signedOut() {
  stream.close();
  clearTimeout(renewal);
  showState("signed-out");
}

async function send() {
  const text = $("text").value.trim();
  if (!text || $("send").disabled) return;
  const target = current;
  $("send").disabled = true;
  showProblem("");
  try {
    const body = target.kind === "room" ? { room: target.id, text } : { to: target.id, text };
    const { ok, status, error } = await post("/messages", body);
    if (ok) {
      if (target !== current) keepDraft(target, "");
      else if ($("text").value.trim() === text) {
        $("text").value = "";
        keepDraft(target, "");
      }
      fitText();
    } else {
      if (status === 401) signedOut();
      else showProblem(error ?? "The message could not be sent.");
    }
  } catch {
    showProblem("The server cannot be reached. Your message is still here; try again.");
  } finally {
    $("send").disabled = isSignedOut;
    if (target === current) $("text").focus();
  }
}

// -- showing ------------------------------------------------------------------------------------

/** Make an element. All text goes in as text, so nobody can write HTML into the page. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== false));
  return element;
}

function hue(id) {
  let hash = 7;
  for (const character of id) hash = (hash * 31 + character.codePointAt(0)) % 3600;
  return (hash * 137.508) % 360; // the golden angle: names that differ little look different
}

function initials(name) {
  const words = name.split(/[\s.-]+/).filter(Boolean);
  const letters = words.length > 1 ? [words[0], words.at(-1)] : [name];
  return letters.map((word) => [...word][0]).join("").toLocaleUpperCase();
}

function paint(avatar, id) {
  avatar.textContent = initials(names.get(id) ?? id);
  avatar.style.setProperty("--hue", hue(id).toFixed(1));
  return avatar;
}

function avatarOf(id, isOnline) {
  const avatar = paint(make("span", { class: "avatar", "aria-hidden": "true" }), id);
  if (isOnline !== undefined) avatar.dataset.online = isOnline;
  return avatar;
}

let isShowing = false;

/** Show what is known, once for all changes that arrive together. */
function show() {
  if (isShowing) return;
  isShowing = true;
  setTimeout(() => {
    isShowing = false;
    showAll();
  }, 10);
}

function showAll() {
  if (isLoaded && isLookedAt()) markRead(current);
  const online = stream.people();
  const unread = new Map([...conversations.values()].map((shown) => [shown, unreadIn(shown)]));
  showLists(online, unread);
  showPeople(online);
  showHead(online, unread);
  showMessages();
}

function isLookedAt() {
  return document.visibilityState === "visible" && document.hasFocus() && !document.body.dataset.panel;
}

function showHead(online, unread) {
  const title = titleOf(current);
  $("title").textContent = title;
  $("title").dataset.kind = current.kind;
  $("about").textContent =
    current.kind === "room"
      ? abouts.get(current.id) ?? "A room that somebody opened"
      : online.has(current.id)
        ? "Only the two of you, online now"
        : "Only the two of you, not online now";
  $("text").placeholder = current.kind === "room" ? `Write to everybody in ${title}` : `Write to ${title} alone`;
  $("text-label").textContent = $("text").placeholder;
  let others = 0;
  for (const [shown, count] of unread) if (shown !== current) others += count;
  $("other-unread").hidden = others === 0;
  $("other-unread").replaceChildren(String(others), make("span", { class: "unseen" }, " unread elsewhere"));
  const all = others + (unread.get(current) ?? 0);
  document.title = `${all ? `(${all}) ` : ""}${title} – Quicksilver`;
}

function showLists(online, unread) {
  for (const topic of stream.topics()) {
    const name = topic.startsWith(`${page.topics}/rooms/`) && topic.slice(page.topics.length + 7);
    if (name && /^[a-z0-9-]+$/.test(name)) conversation("room", name);
  }
  const all = [...conversations.values()];
  const known = [...abouts.keys()];
  const place = ({ id }) => (known.includes(id) ? known.indexOf(id) : known.length);
  const rooms = all
    .filter((shown) => shown.kind === "room")
    .sort((a, b) => place(a) - place(b) || a.id.localeCompare(b.id));
  const latest = (shown) => shown.messages.at(-1)?.sent ?? "~"; // just opened: first
  const people = all
    .filter((shown) => shown.kind === "user" && (shown.messages.length || shown === current))
    .sort((a, b) => latest(b).localeCompare(latest(a)));
  const entry = (shown) => {
    const count = unread.get(shown) ?? 0;
    const path = shown.kind === "room" ? "rooms" : "people";
    return make(
      "li",
      {},
      make(
        "a",
        {
          class: "entry",
          href: `/${path}/${encodeURIComponent(shown.id)}`,
          "data-key": shown.key,
          "data-unread": count > 0,
          "aria-current": shown === current ? "page" : false,
        },
        shown.kind === "room"
          ? make("span", { class: "hash", "aria-hidden": "true" }, "#")
          : avatarOf(shown.id, online.has(shown.id)),
        make("span", { class: "name" }, titleOf(shown)),
        count > 0 &&
          make("span", { class: "badge" }, String(count), make("span", { class: "unseen" }, " unread")),
      ),
    );
  };
  update($("rooms"), rooms.map(entry));
  update($("private"), people.map(entry));
  $("private-empty").hidden = people.length > 0;
}

function showPeople(online) {
  const here = stream.people(`${page.topics}/rooms/${room}`);
  const byName = (a, b) =>
    (b === page.me.id) - (a === page.me.id) || (names.get(a) ?? a).localeCompare(names.get(b) ?? b);
  const entry = (id) =>
    make(
      "li",
      {},
      id === page.me.id
        ? make(
            "span",
            { class: "entry", "data-person": id },
            avatarOf(id, true),
            make("span", { class: "name" }, names.get(id), make("span", { class: "you" }, " you")),
          )
        : make(
            "a",
            {
              class: "entry",
              href: `/people/${encodeURIComponent(id)}`,
              "data-key": `user:${id}`,
              "data-person": id,
              title: "Write privately",
            },
            avatarOf(id, true),
            make("span", { class: "name" }, names.get(id) ?? id),
          ),
    );
  const elsewhere = [...online.keys()].filter((id) => !here.has(id));
  update($("here"), [...here.keys()].sort(byName).map(entry));
  update($("elsewhere"), elsewhere.sort(byName).map(entry));
  $("here-title").textContent = `In #${room}`;
  $("elsewhere-title").hidden = elsewhere.length === 0;
  $("people-count").textContent = here.size || "";
}

/** Replace the content of a list, but leave alone what is the same: focus stays where it is. */
function update(list, items) {
  items.forEach((item, index) => {
    const old = list.children[index];
    if (!old) list.append(item);
    else if (old.isEqualNode(item)) return;
    else {
      const hadFocus = old.contains(document.activeElement);
      old.replaceWith(item);
      if (hadFocus) item.querySelector("a")?.focus();
    }
  });
  while (list.children.length > items.length) list.lastChild.remove();
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

function dayName(date) {
  const today = new Date();
  const yesterday = new Date();
  yesterday.setDate(today.getDate() - 1);
  if (date.toDateString() === today.toDateString()) return "Today";
  if (date.toDateString() === yesterday.toDateString()) return "Yesterday";
  return calendar.format(date);
}

let drawn = null; // { conversation, first, count }: what the log holds

function showMessages() {
  const log = $("log");
  $("log-empty").hidden = current.messages.length > 0;
  $("log-empty").textContent = !isLoaded
    ? "Fetching what was said before"
    : current.kind === "room"
      ? `Nobody has written in #${current.id} yet. Be the first.`
      : `What you and ${titleOf(current)} write here stays between you.`;
  if (!isLoaded) return; // the history comes in one piece
  const { messages } = current;
  const first = Math.max(0, messages.length - current.limit);
  const isOther = drawn?.conversation !== current || first < drawn.first;
  const wasAtEnd = isOther || isAtEnd;
  if (isOther) {
    log.setAttribute("aria-live", "off"); // old messages are not read aloud
    $("messages").replaceChildren();
    if (first > 0) $("messages").append(make("li", { class: "earlier" }, earlierButton(first)));
    drawn = { conversation: current, first, count: first };
  }
  const isAppended = messages.length > drawn.count;
  const rows = [];
  for (; drawn.count < messages.length; drawn.count++) rows.push(...row(messages, drawn.count, drawn.first));
  $("messages").append(...rows);
  if (wasAtEnd && (isOther || isAppended)) log.scrollTop = log.scrollHeight;
  isAtEnd = atEnd();
  $("to-end").hidden = isAtEnd;
  log.setAttribute("aria-busy", "false");
  if (isOther) setTimeout(() => log.setAttribute("aria-live", "polite"), 100);
}

function row(messages, index, first) {
  const { id, from, text, sent } = messages[index];
  const before = index > first ? messages[index - 1] : null;
  const date = new Date(sent);
  const isNewDay = !before || new Date(before.sent).toDateString() !== date.toDateString();
  const isFirstNew = id === current.newFrom;
  const isContinued =
    !isNewDay && !isFirstNew && before.from.id === from.id && date - new Date(before.sent) < GROUP_TIME;
  const rows = [];
  if (isNewDay) rows.push(make("li", { class: "day" }, make("span", {}, dayName(date))));
  if (isFirstNew) rows.push(make("li", { class: "new" }, make("span", {}, "New")));
  const time = make("time", { datetime: sent, title: moment.format(date) }, clock.format(date));
  const body = make("p", { class: "text" }, text);
  rows.push(
    make(
      "li",
      { class: isContinued ? "message continued" : "message", "data-id": id, "data-own": from.id === page.me.id },
      isContinued ? time : avatarOf(from.id),
      isContinued
        ? make("div", {}, make("span", { class: "unseen" }, from.name), body)
        : make("div", {}, make("p", { class: "by" }, authorOf(from), time), body),
    ),
  );
  return rows;
}

function authorOf({ id, name }) {
  const author = make("strong", {}, name);
  author.style.setProperty("--hue", hue(id).toFixed(1));
  return author;
}

function earlierButton(count) {
  const button = make("button", { type: "button", class: "quiet" }, `Show earlier messages (${count})`);
  button.addEventListener("click", () => {
    const log = $("log");
    const fromEnd = log.scrollHeight - log.scrollTop;
    current.limit += PAGE_SIZE;
    showMessages();
    log.scrollTop = log.scrollHeight - fromEnd;
  });
  return button;
}

function atEnd() {
  const { scrollHeight, scrollTop, clientHeight } = $("log");
  return scrollHeight - scrollTop - clientHeight < 60;
}

function firstUnread({ key, messages }) {
  const until = readUntil[key] ?? readUntil.since;
  return messages.find(({ sent, from }) => sent > until && from.id !== page.me.id)?.id ?? null;
}

function showProblem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

let countdown;
let isHeld = false;

function showState(state, until) {
  clearInterval(countdown);
  $("state").dataset.state = state;
  const text = $("state-text");
  text.textContent = state === "waiting" && !navigator.onLine ? "No network" : STATES[state];
  if (state === "held") {
    showProblem("The hub does not answer. A browser has few connections for a site: close other tabs of the chat.");
  } else if (isHeld) showProblem("");
  isHeld = state === "held";
  if (state === "signed-out") {
    isSignedOut = true;
    $("send").disabled = true;
    showProblem("You are signed out. What you write here is kept until you sign in again.");
    text.replaceChildren(make("a", { href: "/sign-in" }, "Sign in again"));
  } else if (state === "waiting") {
    // The number is not read aloud each second.
    const seconds = make("span", { "aria-hidden": "true" });
    const tick = () => (seconds.textContent = `, again in ${Math.max(0, Math.ceil((until - Date.now()) / 1000))} s`);
    tick();
    text.append(seconds);
    countdown = setInterval(tick, 1000);
  }
}

// -- what the person does -----------------------------------------------------------------------

function fromAddress() {
  const [, kind, name = ""] = location.pathname.split("/");
  const id = decodeURIComponent(name);
  return kind === "people" ? conversation("user", id) : conversation("room", id);
}

function open(shown, { isNew = true } = {}) {
  if (current && current !== shown) keepDraft(current, $("text").value);
  if (isNew && shown !== current) {
    history.pushState(null, "", `/${shown.kind === "room" ? "rooms" : "people"}/${encodeURIComponent(shown.id)}`);
  }
  if (shown !== current) {
    current = shown;
    current.newFrom = isLoaded ? firstUnread(current) : null;
    drawn = null;
    $("text").value = current.draft;
    if (!isSignedOut) showProblem("");
    fitText();
  }
  const before = room;
  room = current.kind === "room" ? current.id : room ?? page.rooms[0].id;
  // Everybody hears all rooms. This one by its exact topic too: that is what others see as "here".
  if (room !== before) stream.listen([`${page.topics}/rooms/${room}`]);
  closePanels();
  showAll();
  if (matchMedia("(hover: hover)").matches) $("text").focus(); // no keyboard that covers a phone's screen
}

document.addEventListener("click", (event) => {
  const { target } = event;
  const link = target.closest("a[data-key]");
  if (link && !event.metaKey && !event.ctrlKey && !event.shiftKey) {
    event.preventDefault();
    const [kind, ...id] = link.dataset.key.split(":");
    open(conversation(kind, id.join(":")));
  } else if (target.closest("[data-open]")) {
    openPanel(target.closest("[data-open]").dataset.open);
  } else if (target.closest("[data-close]")) {
    closePanels();
  }
});

addEventListener("popstate", () => open(fromAddress(), { isNew: false }));

$("new-room").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("room-name")
    .value.toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "");
  $("room-name").value = "";
  if (name) open(conversation("room", name));
});

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
  fitText();
});

function fitText() {
  const text = $("text");
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
  const left = text.maxLength - text.value.length;
  $("left").textContent = left <= 200 ? `${left} characters left` : "";
}

let isAtEnd = true;
let height = 0; // of the log; it changes with a phone's keyboard and with the box for the text

$("log").addEventListener(
  "scroll",
  () => {
    if ($("log").clientHeight !== height) return; // the change of size moved it, not the person
    isAtEnd = atEnd();
    $("to-end").hidden = isAtEnd;
  },
  { passive: true },
);

new ResizeObserver(() => {
  height = $("log").clientHeight;
  if (isAtEnd) $("log").scrollTop = $("log").scrollHeight;
}).observe($("log"));

$("to-end").addEventListener("click", () => {
  $("log").scrollTop = $("log").scrollHeight;
  $("text").focus();
});

addEventListener("focus", show);
addEventListener("blur", () => (current.newFrom = null)); // what comes from now on is new
document.addEventListener("visibilitychange", show);

// Other windows of this browser leave together with this one.
const others = new BroadcastChannel("chat");
others.addEventListener("message", ({ data }) => data === "sign-out" && location.assign("/sign-in"));
$("sign-out").addEventListener("submit", () => {
  sessionStorage.removeItem(`drafts:${page.me.id}`);
  others.postMessage("sign-out");
});

// -- panels on narrow screens -------------------------------------------------------------------

const PANELS = { side: matchMedia("(max-width: 760px)"), people: matchMedia("(max-width: 1080px)") };
let opener = null;

/** A panel that is out of sight is out of reach; one that is open is all there is to reach. */
function arrangePanels() {
  const open = document.body.dataset.panel;
  for (const [id, isDrawer] of Object.entries(PANELS)) {
    $(id).inert = id === open ? false : isDrawer.matches || Boolean(open);
    document.querySelector(`[data-open=${id}]`).setAttribute("aria-expanded", id === open);
  }
  document.querySelector("main").inert = Boolean(open);
}

function openPanel(id) {
  opener = document.activeElement;
  document.body.dataset.panel = id;
  arrangePanels();
  $(id).focus();
}

function closePanels() {
  if (!document.body.dataset.panel) return;
  delete document.body.dataset.panel;
  arrangePanels();
  opener?.focus();
  show();
}

addEventListener("keydown", (event) => event.key === "Escape" && closePanels());
for (const [id, isDrawer] of Object.entries(PANELS)) {
  isDrawer.addEventListener("change", () => {
    if (document.body.dataset.panel === id) closePanels();
    arrangePanels();
  });
}

// -- begin --------------------------------------------------------------------------------------

paint(document.querySelector("[data-avatar]"), page.me.id);
arrangePanels();
open(fromAddress(), { isNew: false });
