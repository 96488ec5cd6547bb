// The page's one connection: made when it is needed first, of what `mercure_script` has put into the page.

import { follow, isForeign, Mercure, turnTo } from "./connection.js";
import { load } from "./reload.js";
import { readUrl } from "./topics.js";

const LATER = new Set([408, 425, 429]); // the answers of these statuses ask to come again

let connection = null;
let options = null; // with which it was made
let followed = null; // text of the configuration whose topics it has; `null` where a script has named others

const configurationText = () => document.querySelector("meta[data-mercure]")?.content ?? null;

/** What `mercure_script` has put into the page; `null` if it has not. */
const configuration = () => JSON.parse(configurationText());

/**
 * The page's connection; or with a URL, another one.
 *
 * @param {string | URL | object} [url] of the hub, with or without matchers; left out, it is the page's one object.
 *   Its options, or what `mercure.session()` has answered, belong to the first call
 * @param {object} [options] see mercure.d.ts
 * @returns {Mercure}
 */
export function connect(url, more) {
  if (typeof url === "string" || url instanceof URL) return new Mercure(url, more ?? {});
  const given = { ...url, ...more };
  if (isConnected()) {
    if (Object.keys(given).length) {
      throw new TypeError("this page is connected already: give the options to its first call of connect()");
    }
    return connection;
  }
  const { url: hub, ...rest } = given.url === undefined ? { ...configuration(), ...given } : given;
  if (hub === undefined) {
    throw new Error(
      "there is no URL: give one, or what mercure.session() answers, or use mercure_script() in the page's template",
    );
  }
  connection = new Mercure(hub, rest);
  options = { url: hub, ...rest };
  followed = given.url === undefined && given.topics === undefined ? configurationText() : null;
  return connection;
}

/** Turbo Drive shows another page in the same document: go over to its topics, from its position on. */
function followPage() {
  const text = configurationText();
  const isPreview = document.documentElement.hasAttribute("data-turbo-preview");
  if (isPreview || followed === null || text === null || !isConnected()) return;
  const { topics, lastEventId = null, url } = configuration();
  if (url !== JSON.parse(followed).url || isForeign(connection)) {
    load(); // another hub or user is another connection
    return;
  }
  if (text === followed) return;
  followed = text;
  turnTo(connection, topics, lastEventId);
}

globalThis.document?.addEventListener("turbo:render", followPage); // a server may import this, too

const isConnected = () => connection !== null && connection.state !== "closed";

/**
 * What a URL such as `mercure_url` gives asks of the page's hub.
 *
 * @param {string | URL} url
 * @returns {{topics: object[], lastEventId: string | null} | null} `null` when the page's connection cannot give it: it
 *   is of another hub, or asks for more than topics and a position
 */
export function asked(url) {
  const page = isConnected() ? options : configuration();
  if (!page || page.transport === "eventsource") return null;
  const { url: hub, topics, lastEventId, lastValue, protocol } = readUrl(url);
  const isSame = hub.href === readUrl(page.url).url.href && (protocol ?? "1.0") === (page.protocol ?? "1.0");
  return isSame && topics.length && !lastValue ? { topics, lastEventId } : null;
}

/**
 * Take what was asked for from the page's connection.
 *
 * @param {{topics: object[], lastEventId: string | null}} wanted as of `asked`
 * @param {(update: import("./connection.js").Update) => void} give
 * @param {(state: string, detail: object) => void} onstate `refused` and `closed` end it
 * @returns {() => void} ends it
 */
export function take({ topics, lastEventId }, give, onstate) {
  const isFatal = (status) => [200, 204].includes(status) || (status >= 400 && status < 500 && !LATER.has(status));
  return follow(connect(), topics, {
    give,
    lastEventId,
    // As the standard has it, another attempt follows only when the network has failed; here also when the hub has.
    onstate: (state, detail) => onstate(isFatal(detail.status) ? "refused" : state, detail),
  });
}

/** `connect().on(type, listener)` */
export const on = (type, listener) => connect().on(type, listener);

/** `connect().subscribe(topics, listener, options)` */
export const subscribe = (topics, listener, options) => connect().subscribe(topics, listener, options);

/** `connect().presence(topic, callbacks, options)` */
export const presence = (topic, callbacks, options) => connect().presence(topic, callbacks, options);

/** `connect().presenceCount(topic, callback, options)` */
export const presenceCount = (topic, callback, options) => connect().presenceCount(topic, callback, options);
