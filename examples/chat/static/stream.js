// The page's one connection to the hub: messages, presence, and what to do when it breaks.
//
// One EventSource carries everything, with many matchers: browsers allow few streams at once to one
// host. This file knows the Mercure protocol and nothing of the chat's page.

const SLOWEST = 30_000; // milliseconds between two attempts
const UNANSWERED = 8000; // milliseconds after which something holds the connection back

/**
 * Events: "message" {id, data}, "presence" {}, "state" {state, until}.
 *
 * States: connecting, live, waiting (until: time of the next attempt), held (no answer, perhaps because this
 * browser has no connection left for the hub), signed-out.
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
  #timer = 0; // of the next attempt
  #watch = 0;
  #isClosed = false;
  #isHeld = false;
  #presence = new Presence();

  constructor({ url, pages, renew }) {
    super();
    this.#base = url;
    this.#pages = pages;
    this.#renew = renew;
    addEventListener("online", () => this.#timer && this.#open());
    // Perhaps it is the network to another place. Then the next attempt finds the hub, and nothing is missed.
    addEventListener("offline", () => this.#source && !this.#timer && this.#again());
  }

  /** Listen to these topics too, instead of those named before. Nothing is missed in between. */
  listen(topics) {
    this.#topics = topics;
    if (!this.#isClosed) this.#open();
  }

  /** Change over to a fresh cookie before the hub ends the stream of the old one. */
  reopen() {
    if (this.#source && !this.#timer) this.#open();
  }

  /** End it: nobody is known to be here any more. */
  close() {
    this.#isClosed = true;
    this.#stop();
    this.#presence.forget();
    this.#tell("presence");
  }

  /** People with a subscription to a topic, or to anything: a Map from their id to their payload. */
  people(topic) {
    return this.#presence.people(topic);
  }

  /** Topics that somebody is subscribed to. */
  topics() {
    return this.#presence.topics();
  }

  #stop() {
    clearTimeout(this.#timer);
    clearTimeout(this.#watch);
    this.#source?.close();
    this.#retire();
    this.#timer = 0;
    this.#source = null;
  }

  #open() {
    clearTimeout(this.#timer);
    clearTimeout(this.#watch);
    this.#timer = 0;
    this.#watch = setTimeout(() => this.#heldBack(), UNANSWERED);
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
      clearTimeout(this.#watch);
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
      // After a cut the browser would come back by itself, and not say when. What it gave up was refused,
      // most likely for a cookie that has ended.
      this.#again(source.readyState === EventSource.CLOSED);
    });
  }

  #retire() {
    this.#retiring?.close();
    this.#retiring = null;
  }

  /** No answer: the stream before this one may have the last connection that the browser has for the hub. */
  #heldBack() {
    if (this.#retiring) {
      this.#retire();
      this.#watch = setTimeout(() => this.#heldBack(), UNANSWERED);
      return;
    }
    this.#held();
  }

  #held() {
    console.warn(
      "The hub does not answer. Over HTTP/1.1 a browser has six connections to a host, for all of its tabs together.",
    );
    this.#state("held");
  }

  #again(isRefused = false) {
    this.#stop();
    const longest = Math.min(SLOWEST, 1000 * 2 ** this.#attempts++);
    const wait = longest * (0.5 + Math.random() / 2); // not all pages at the same moment
    this.#state("waiting", Date.now() + wait);
    this.#timer = setTimeout(async () => {
      this.#state("connecting");
      const renewed = isRefused ? await this.#renew().catch(() => null) : true; // null: the app is away
      if (renewed === false) {
        this.close();
        this.#state("signed-out");
      } else if (renewed === null) this.#again(isRefused);
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
      const signal = AbortSignal.timeout(UNANSWERED);
      const options = { credentials: "include", cache: "no-store", signal };
      const response = await fetch(`${origin}${pathname}/subscriptions`, options);
      if (!response.ok) throw new Error(`${response.status} for the list of subscriptions`);
      const { subscriptions } = await response.json();
      if (!this.#presence.complete(round, subscriptions)) return;
      if (this.#isHeld) this.#state("live");
      this.#tell("presence");
    } catch (error) {
      if (!this.#presence.isCurrent(round)) return;
      if (error.name === "TimeoutError") this.#held();
      setTimeout(() => this.#list(round), 3000);
    }
  }

  #state(state, until) {
    this.#isHeld = state === "held";
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

  /** Nobody is known any more. */
  forget() {
    this.pause();
    this.#shown.clear();
  }

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
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
