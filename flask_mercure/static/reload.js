// Loading the page anew because updates are missing: never what a POST has answered, nor over what somebody types.

const APART = 30_000; // milliseconds between two times: what did not help at first must not go on for ever
const LOOK = 500; // milliseconds between two looks at the forms
const SENDING = 5000; // milliseconds that a form has, from its submission on, to be answered
const KEY = "mercure loaded anew";

const asking = new Set(); // signals of those who want it
const before = new Map(); // element that is edited in place -> its HTML before
const submitted = new WeakMap(); // form -> when, until somebody changes it again
let timer = 0;
let last = 0; // when this document did so, which Turbo lets live on

globalThis.document?.addEventListener("beforeinput", noteInput, true); // a server may import this, too
globalThis.document?.addEventListener("submit", ({ target }) => submitted.set(target, performance.now()), true);

function noteInput({ target }) {
  if (target.form) submitted.delete(target.form);
  const place = target.closest?.("[contenteditable]");
  if (place && !before.has(place)) before.set(place, place.innerHTML);
}

/**
 * Load the page anew by its address, as soon as nobody would lose by it.
 *
 * @param {AbortSignal} signal of who asks, who may end before
 */
export function reload(signal) {
  asking.add(signal);
  timer ||= setTimeout(attempt, rest());
}

/** Load the page anew by its address, whatever is in it. */
export function load() {
  const address = new URL(location.href);
  address.hash = ""; // with one, browsers go to a place in the page that they have
  location.replace(address.href);
}

function attempt() {
  timer = 0;
  if ([...asking].every(({ aborted }) => aborted)) return void asking.clear();
  const method = document.querySelector("meta[data-mercure]")?.dataset.method;
  if (method) {
    console.warn(`mercure: updates are missing, and this page answers a ${method}, which is not sent again`);
    asking.clear();
    return;
  }
  if (isDirty()) {
    timer = setTimeout(attempt, LOOK);
    return;
  }
  asking.clear();
  note();
  // Turbo 8 changes what differs, where the page says so (turbo-refresh-method), and keeps focus and scroll position.
  const { session } = window.Turbo ?? {};
  const how = { method: "morph", scroll: "preserve" };
  if (session?.refresh && session.drive !== false) session.refresh(document.baseURI, how);
  else load();
}

/** Whether somebody has entered what is not sent yet. */
function isDirty() {
  for (const [place, html] of before) {
    if (!place.isConnected) before.delete(place);
    else if (place.innerHTML !== html) return true;
  }
  return [...document.querySelectorAll("input, select, textarea")].some(isChanged);
}

function isChanged(field) {
  const sent = submitted.get(field.form);
  if (sent !== undefined) return performance.now() - sent < SENDING; // its answer may be the next page
  const copy = field.cloneNode(true);
  const form = document.createElement("form");
  form.append(copy);
  form.reset();
  if (field.localName === "select") {
    return [...field.options].some(({ selected }, index) => selected !== copy.options[index].selected);
  }
  return field.value !== copy.value || field.checked !== copy.checked;
}

/** Milliseconds to wait. */
function rest() {
  const stored = storedTime();
  const since = Date.now() - stored;
  const other = stored && since >= 0 ? APART - since : stored && APART; // a clock may be set back
  const own = last && APART - (performance.now() - last);
  return Math.max(0, own, other);
}

function storedTime() {
  try {
    const { address, time } = stored();
    return address === here() ? time : 0;
  } catch {
    return performance.timeOrigin; // the browser gives the page no storage: as if it was loaded anew itself
  }
}

function note() {
  last = performance.now();
  try {
    store({ address: here(), time: Date.now(), hash: location.hash });
  } catch {
    // see above
  }
}

/** Go to the place in the page where the one before was. */
function find() {
  try {
    const { hash, ...noted } = stored();
    if (!hash) return;
    store(noted);
    if (noted.address === here() && !location.hash) location.replace(hash);
  } catch {
    // the page is shown from its top
  }
}

const here = () => location.pathname + location.search;
const stored = () => JSON.parse(sessionStorage.getItem(KEY)) ?? {};
const store = (noted) => sessionStorage.setItem(KEY, JSON.stringify(noted));

if (globalThis.document) find();
