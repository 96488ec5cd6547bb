// Who is at a topic: the hub's subscriptions to it, folded into people. The hub lists them, and tells of each
// that begins or ends. A person with several tabs and devices is one entry, and a reload is no leaving.

import { LONGEST_DELAY, bounded } from "./stream.js";

const GRACE = 15_000; // milliseconds without a connection after which somebody has left
const LONGEST_MATCHER = 512; // characters, in a hub with active subscriptions
const PATIENCE = 10_000; // milliseconds for the answer with the list
const SETTLING = 100; // milliseconds in which the page's own subscription comes, if the list was quicker
const FIRST_DELAY = 1000; // milliseconds before the list is asked for again

/**
 * Folds subscriptions into people.
 *
 * It has no clock: all times are given to it, in milliseconds. What changes is returned as an array of
 * `{joined: boolean, person}`, in order.
 */
export class People {
  #subscriptions = new Map(); // subscriber -> key of the person
  #people = new Map(); // key -> {user, payload, subscribers, leftAt}
  #isKnown = false;
  #listing = null; // while a list is on its way: what began and ended meanwhile
  #lostAt = null;
  #settledAt = 0; // when those have come back that an outage took away

  /** Everybody, with those who may come back yet. */
  get all() {
    return [...this.#people.values()].map(shown);
  }

  /** When `due` has something to do; `null`: nothing is due. */
  get next() {
    if (this.#lostAt !== null) return null;
    const times = [...this.#people.values()].flatMap(({ leftAt }) =>
      leftAt === null ? [] : [this.#end(leftAt)],
    );
    return times.length ? Math.min(...times) : null;
  }

  /** A list is asked for: what comes from now on may not be in it. */
  begin() {
    this.#listing = { begun: new Set(), ended: new Set() };
  }

  /** The list has come. The first one causes no changes. */
  list(documents, now) {
    const { begun, ended } = this.#listing;
    this.#listing = null;
    const listed = new Map(documents.map((one) => [one.subscriber, one]));
    const changes = [];
    for (const id of [...this.#subscriptions.keys()]) {
      if (!listed.has(id) && !begun.has(id)) this.#remove(id, now);
    }
    for (const [id, document] of listed) if (!ended.has(id)) changes.push(...this.#add(document));
    if (this.#isKnown) return changes;
    this.#isKnown = true;
    return [];
  }

  /** A subscription has begun or ended. */
  apply(document, now) {
    const { subscriber, active } = document;
    if (this.#listing) this.#listing[active ? "begun" : "ended"].add(subscriber);
    if (active) return this.#listing?.ended.has(subscriber) ? [] : this.#add(document);
    this.#remove(subscriber, now);
    return [];
  }

  /** Nothing is heard from now on, so nobody leaves. */
  lost(now) {
    this.#lostAt ??= now;
  }

  /**
   * The hub is heard again.
   *
   * What took the stream away may have taken those of the others. They come back within the longest pause
   * between two attempts, which is no longer than the outage was.
   */
  back(now) {
    if (this.#lostAt === null) return;
    this.#settledAt = now + Math.min(now - this.#lostAt, LONGEST_DELAY);
    this.#lostAt = null;
  }

  /** Those whose grace is over have left. */
  due(now) {
    if (this.#lostAt !== null) return [];
    const changes = [];
    for (const [key, person] of this.#people) {
      if (person.leftAt === null || this.#end(person.leftAt) > now) continue;
      this.#people.delete(key);
      changes.push({ joined: false, person: shown(person) });
    }
    return changes;
  }

  #end(leftAt) {
    return Math.max(leftAt, this.#settledAt) + GRACE;
  }

  #add({ subscriber, payload }) {
    if (payload === undefined || payload === null || this.#subscriptions.has(subscriber)) return [];
    const user = userOf(payload);
    const key = user === null ? `payload ${JSON.stringify(payload, inOrder)}` : `user ${user}`;
    this.#subscriptions.set(subscriber, key);
    const known = this.#people.get(key);
    const person = known ?? { user, payload, subscribers: new Set(), leftAt: null };
    person.payload = payload;
    person.subscribers.add(subscriber);
    person.leftAt = null;
    if (known) return [];
    this.#people.set(key, person);
    return this.#isKnown ? [{ joined: true, person: shown(person) }] : [];
  }

  #remove(subscriber, now) {
    const key = this.#subscriptions.get(subscriber);
    if (key === undefined) return;
    this.#subscriptions.delete(subscriber);
    const person = this.#people.get(key);
    person.subscribers.delete(subscriber);
    if (person.subscribers.size) return;
    if (this.#isKnown) person.leftAt = now;
    else this.#people.delete(key);
  }
}

/** Who a payload names: the app's user, which the extension puts there. */
function userOf(payload) {
  const user = payload?.sub;
  return typeof user === "string" || typeof user === "number" ? String(user) : null;
}

/** For JSON.stringify: the members of objects in one order, whoever wrote them. */
function inOrder(_, value) {
  const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
  return isObject ? Object.fromEntries(Object.entries(value).sort()) : value;
}

function shown({ user, payload, subscribers }) {
  return { user, payload, connections: subscribers.size };
}

/** Follows the people of one topic, and tells a page of them. */
export class Presence {
  #topic;
  #callbacks;
  #settings;
  #people = new People();
  #count = null;
  #isHeard = false;
  #round = 0; // counts the lists that were asked for
  #attempts = 0;
  #isKnown = false;
  #hasWarned = false;
  #retry = 0; // timer of the next list
  #timer = 0; // of the next who leaves
  #url;
  #abort = new AbortController(); // takes the listeners off the page

  /**
   * @param {string} topic
   * @param {{here?: Function, joining?: Function, leaving?: Function, count?: Function}} callbacks
   * @param {import("./stream.js").Settings} settings
   */
  constructor(topic, callbacks, settings) {
    check(topic, settings);
    this.#topic = topic;
    this.#callbacks = callbacks;
    this.#settings = settings;
    this.#url = below(settings.url, `subscriptions/exact/${encode(topic)}`);
    const events = `${this.#url.pathname}/:subscriber`;
    if (events.length > LONGEST_MATCHER) {
      throw new TypeError(`the topic is too long for presence: the hub needs ${events.length} characters`);
    }
    this.events = { match: events, match_type: "urlpattern" };
    const { signal } = this.#abort;
    const sleep = () => this.hear(false); // a page that is put away has no stream
    window.addEventListener("pagehide", sleep, { signal });
    document.addEventListener("freeze", sleep, { signal });
  }

  /** The stream is open and carries the events, or not. */
  hear(isHeard) {
    if (isHeard === this.#isHeard) return;
    this.#isHeard = isHeard;
    const now = Date.now();
    if (isHeard) {
      this.#people.back(now);
      this.#attempts = 0;
      this.#list();
    } else {
      this.#people.lost(now);
      this.#round++;
      clearTimeout(this.#retry);
    }
    this.#schedule();
  }

  /** An event of the hub's own. */
  take(update) {
    const document = parsed(update.data);
    const { match, match_type: type, subscriber } = document ?? {};
    if (!this.#isHeard) return; // of the history, which may be long: the list will tell who is left
    if (match !== this.#topic || type !== "exact" || typeof subscriber !== "string") return;
    this.#tell(this.#people.apply(document, Date.now()));
  }

  close() {
    this.#abort.abort();
    this.#round++;
    clearTimeout(this.#retry);
    clearTimeout(this.#timer);
  }

  /** Everything has to be asked for again: events may be missing. */
  resync() {
    if (this.#isHeard) this.#list();
  }

  async #list() {
    clearTimeout(this.#retry);
    const round = ++this.#round;
    this.#people.begin();
    let documents;
    try {
      ({ subscriptions: documents } = await ask(
        this.#url,
        this.#settings,
        `who is at ${this.#topic}: grant what mercure.presence(topic).grants has`,
      ));
      if (!Array.isArray(documents) || !documents.every((one) => typeof one?.subscriber === "string")) {
        throw new Refusal("the hub's answer is no list of subscriptions, as protocol 1.0 has it");
      }
    } catch (error) {
      if (round !== this.#round) return;
      if (error instanceof Refusal && !this.#hasWarned) {
        this.#hasWarned = true;
        console.warn(`mercure: ${error.message}`);
      }
      const most = Math.min(FIRST_DELAY * 2 ** this.#attempts++, LONGEST_DELAY);
      this.#retry = setTimeout(() => this.#list(), most * (0.5 + Math.random() / 2));
      return;
    }
    if (round !== this.#round) return;
    this.#attempts = 0;
    const changes = this.#people.list(documents, Date.now());
    if (this.#isKnown) this.#tell(changes);
    else this.#retry = setTimeout(() => this.#begin(), SETTLING);
  }

  #begin() {
    this.#isKnown = true;
    call(this.#callbacks.here, this.#people.all);
    this.#tell([]);
  }

  #tell(changes) {
    if (!this.#isKnown) return;
    const all = this.#people.all;
    for (const { joined, person } of changes) {
      call(joined ? this.#callbacks.joining : this.#callbacks.leaving, person, all);
    }
    if (all.length !== this.#count) {
      this.#count = all.length;
      call(this.#callbacks.count, all.length);
    }
    this.#schedule();
  }

  #schedule() {
    clearTimeout(this.#timer);
    const { next } = this.#people;
    if (next === null) return;
    this.#timer = setTimeout(() => this.#tell(this.#people.due(Date.now())), bounded(next - Date.now()));
  }
}

/** Follows how many are connected to a topic. The hub tells the number when a stream begins, and when it changes. */
export class Count {
  #topic;
  #callback;
  #settings;
  #url;
  #number = null;
  #isHeard = false;
  #timer = 0;

  /**
   * @param {string} topic
   * @param {(number: number) => void} callback
   * @param {import("./stream.js").Settings} settings
   */
  constructor(topic, callback, settings) {
    check(topic, settings);
    this.#topic = topic;
    this.#callback = callback;
    this.#settings = settings;
    this.#url = below(settings.url, `counts/${encode(topic)}`);
    this.events = this.#url.pathname;
  }

  /** The stream is open and carries the numbers, or not. */
  hear(isHeard) {
    clearTimeout(this.#timer);
    this.#isHeard = isHeard;
    // A stream that another tab has opened before does not begin with the number for this one.
    if (isHeard) this.#timer = setTimeout(() => this.#ask(), FIRST_DELAY * (0.5 + Math.random()));
  }

  /** An event of the hub's own. */
  take(update) {
    const { id, type, count } = parsed(update.data) ?? {};
    if (id === this.events && type === "count") this.#tell(count);
  }

  close() {
    this.hear(false);
  }

  async #ask() {
    try {
      const what = `how many are at ${this.#topic}: grant what mercure.presence_count(topic).grants has`;
      const { count } = await ask(this.#url, this.#settings, what);
      if (!Number.isInteger(count)) throw new Refusal("the hub does not count connections: it is another one");
      if (this.#isHeard && this.#timer) this.#tell(count);
    } catch (error) {
      if (error instanceof Refusal) console.warn(`mercure: ${error.message}`);
      else if (this.#isHeard) this.#timer = setTimeout(() => this.#ask(), LONGEST_DELAY * (0.5 + Math.random() / 2));
    }
  }

  #tell(number) {
    clearTimeout(this.#timer);
    this.#timer = 0;
    if (number === this.#number) return;
    this.#number = number;
    call(this.#callback, number);
  }
}

function check(topic, settings) {
  if (typeof topic !== "string" || topic === "" || topic === "*") {
    throw new TypeError(`${JSON.stringify(topic)} is no topic that people are at: give an exact one`);
  }
  if (settings.protocol !== "1.0") throw new TypeError("presence needs protocol 1.0");
}

/** A URL below that of the hub. */
function below(hub, path) {
  const url = new URL(hub);
  url.pathname = `${url.pathname.replace(/\/$/, "")}/${path}`;
  url.search = url.hash = "";
  return url;
}

/**
 * Ask the hub for a document.
 *
 * @param {URL} url
 * @param {import("./stream.js").Settings} settings
 * @param {string} what it tells, and how a page may know it
 */
async function ask(url, { credentials, access: { token } }, what) {
  const options = { credentials, cache: "no-store", signal: AbortSignal.timeout(PATIENCE) };
  if (token) {
    options.credentials = "omit";
    options.headers = { Authorization: `Bearer ${await token()}` };
  }
  const response = await fetch(url, options);
  if (response.status === 401 || response.status === 403) throw new Refusal(`this page may not see ${what}`);
  if (response.status === 404) throw new Refusal("the hub tells nobody who is there: MERCURE_SUBSCRIPTIONS=1");
  if (!response.ok) throw new Error(`the hub answered ${response.status}`);
  return response.json();
}

/** The hub will not answer otherwise by itself. */
class Refusal extends Error {}

/** As the hub writes a topic in a path: also what encodeURIComponent leaves. */
function encode(topic) {
  return encodeURIComponent(topic).replace(
    /[!'()*]/g,
    (one) => `%${one.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    return null;
  }
}

/** A callback that fails keeps no other from being called. */
function call(callback, ...values) {
  try {
    callback?.(...values);
  } catch (error) {
    reportError(error);
  }
}
