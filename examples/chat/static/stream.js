// The page's one connection to the hub: messages, presence, and what to do when it breaks.
//
// One EventSource carries everything, with many matchers: browsers allow few streams at once to one
// host. This file knows the Mercure protocol and nothing of the chat's page.

const SLOWEST = 30_000; // milliseconds between two attempts

/**
 * Events: "message" {id, data}, "presence" {}, "state" {state, until}.
 *
 * States: connecting, live, reconnecting, waiting (until: time of the next attempt), signed-out.
 */
export class Stream extends EventTarget {
  #base; // URL of the hub with the matchers that never change
  #renew; // asks the app for a fresh cookie; false when the person is signed out
  #pages; // prefix of the topics by which connections recognise themselves
  #topics = [];
  #source = null; // the EventSource in use
  #retiring = null; // the one before it, until the new one is open
  #lastId = "earliest";
  #seen = new Set();
  #attempts = 0;
  #timer = 0;
  #presence = new Presence();

  constructor({ url, pages, renew }) {
    super();
    this.#base = url;
    this.#pages = pages;
    this.#renew = renew;
    addEventListener("online", () => this.#timer && this.#open());
  }

  /** Listen to these topics too, instead of those named before. Nothing is missed in between. */
  listen(topics) {
    this.#topics = topics;
    this.#open();
  }

  /** Change over to a fresh cookie before the hub ends the stream of the old one. */
  reopen() {
    if (this.#source && !this.#timer) this.#open();
  }

  close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#retiring?.close();
    this.#source = this.#retiring = null;
  }

  /** People with a subscription to a topic, or to anything: a Map from their id to their payload. */
  people(topic) {
    return this.#presence.people(topic);
  }

  /** Topics that somebody is subscribed to. */
  topics() {
    return this.#presence.topics();
  }

  #open() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    // EventSource does not tell when it has delivered what was missed, nor which subscriber it is.
    // But the hub announces each new subscription, in order with all other events. So subscribe to
    // a topic that nobody else knows: its announcement divides what was from what is.
    const marker = this.#pages + randomId();
    const url = new URL(this.#base);
    for (const topic of [...this.#topics, marker]) url.searchParams.append("match", topic);
    url.searchParams.set("last_event_id", this.#lastId);

    this.#retiring?.close();
    this.#retiring = this.#source;
    const source = new EventSource(url, { withCredentials: true });
    this.#source = source;
    const isOld = () => source !== this.#source && source !== this.#retiring;

    source.addEventListener("open", () => {
      if (source !== this.#source) return;
      this.#retire();
      this.#attempts = 0;
      this.#presence.pause();
    });
    source.addEventListener("message", (event) => {
      if (isOld() || this.#seen.has(event.lastEventId)) return;
      // The ids of all messages: a hub that has lost the cursor replays from its beginning.
      this.#seen.add(event.lastEventId);
      this.#lastId = event.lastEventId;
      this.#tell("message", { id: event.lastEventId, data: JSON.parse(event.data) });
    });
    source.addEventListener("mercure", (event) => {
      if (source !== this.#source) return;
      this.#lastId = event.lastEventId;
      const subscription = JSON.parse(event.data);
      if (subscription.active && subscription.match === marker) this.#caughtUp();
      else if (this.#presence.apply(subscription)) this.#tell("presence");
    });
    source.addEventListener("error", () => {
      if (source !== this.#source) return;
      this.#retire();
      // Cut off: the browser connects again by itself and names the last event that it got.
      if (source.readyState === EventSource.CONNECTING) this.#state("reconnecting");
      // Refused, most likely for a cookie that has ended: that is left to us.
      else this.#again();
    });
  }

  #retire() {
    this.#retiring?.close();
    this.#retiring = null;
  }

  #again() {
    const longest = Math.min(SLOWEST, 1000 * 2 ** this.#attempts++);
    const wait = longest * (0.5 + Math.random() / 2); // not all pages at the same moment
    this.#state("waiting", Date.now() + wait);
    this.#timer = setTimeout(async () => {
      this.#state("connecting");
      const renewed = await this.#renew().catch(() => null); // null: the app cannot be reached
      if (renewed === false) this.#state("signed-out");
      else if (renewed === null) this.#again();
      else this.#open();
    }, wait);
  }

  #caughtUp() {
    this.#state("live");
    this.#list(this.#presence.begin());
  }

  async #list(round) {
    const { origin, pathname } = new URL(this.#base);
    try {
      const options = { credentials: "include", cache: "no-store" };
      const response = await fetch(`${origin}${pathname}/subscriptions`, options);
      if (!response.ok) throw new Error(`${response.status} for the list of subscriptions`);
      const { subscriptions } = await response.json();
      if (this.#presence.complete(round, subscriptions)) this.#tell("presence");
    } catch {
      if (this.#presence.isCurrent(round)) setTimeout(() => this.#list(round), 3000);
    }
  }

  #state(state, until) {
    this.#tell("state", { state, until });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/**
 * Who is here: the hub's list of subscriptions, kept up to date by its events.
 *
 * A subscription begins once, ends once, and its name is never used again. So the order in which the
 * list and the events arrive does not matter: active is what was listed or began, and has not ended.
 * Only beginnings from before the present connection do not count, because a hub that was killed
 * could not announce their ends: a replay would bring the dead back.
 */
class Presence {
  #shown = new Map(); // id → subscription
  #begun = new Map(); // while the list is under way
  #ended = new Set();
  #isLive = false;
  #isListed = false;
  #round = 0;

  /** A new connection: what comes now is old, until `begin`. */
  pause() {
    this.#isLive = false;
    this.#round++;
  }

  /** The connection has caught up: what comes now is new. The list is to be fetched. */
  begin() {
    this.#isLive = true;
    this.#isListed = false;
    this.#begun.clear();
    this.#ended.clear();
    return ++this.#round;
  }

  isCurrent(round) {
    return round === this.#round;
  }

  /** The list has come; false when it answers an earlier connection. */
  complete(round, listed) {
    if (!this.isCurrent(round)) return false;
    // The events are those of exact matchers. The list has patterns too, whose end would go unnoticed.
    const active = [...listed, ...this.#begun.values()].filter(
      ({ id, match_type }) => match_type === "exact" && !this.#ended.has(id),
    );
    this.#shown = new Map(active.map((subscription) => [subscription.id, subscription]));
    this.#begun.clear();
    this.#ended.clear();
    this.#isListed = true;
    return true;
  }

  /** An event has come; true when it changed something. */
  apply(subscription) {
    const { id, active } = subscription;
    if (!active) {
      if (!this.#isListed) this.#ended.add(id);
      return this.#shown.delete(id);
    }
    if (!this.#isLive) return false;
    if (!this.#isListed) this.#begun.set(id, subscription);
    this.#shown.set(id, subscription);
    return true;
  }

  people(topic) {
    const people = new Map();
    for (const { match, payload } of this.#shown.values()) {
      if (payload?.id && (topic === undefined || match === topic)) people.set(payload.id, payload);
    }
    return people;
  }

  topics() {
    return new Set([...this.#shown.values()].map(({ match }) => match));
  }
}

// crypto.randomUUID exists on localhost and with TLS only; a phone on the LAN may have neither.
function randomId() {
  const octets = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(octets, (octet) => octet.toString(16).padStart(2, "0")).join("");
}
