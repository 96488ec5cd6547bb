// The page's one connection: made when it is needed first, of what `mercure_script` has put into the page.

import { Mercure } from "./connection.js";

const CONFIGURATION = 'script[type="application/json"][data-mercure]';

let connection = null;

/** What `mercure_script` has put into the page; `null` if it has not. */
export function configuration() {
  const element = document.querySelector(CONFIGURATION);
  return element && JSON.parse(element.textContent);
}

/**
 * The page's connection; or with a URL, another one.
 *
 * @param {string | URL | object} [url] of the hub, with or without matchers; left out, it is the page's one object.
 *   Its options, or what `mercure.session()` has answered, belong to the first call
 * @param {object} [options] see mercure.d.ts
 * @returns {Mercure}
 */
export function connect(url, options) {
  if (typeof url === "string" || url instanceof URL) return new Mercure(url, options ?? {});
  const given = { ...url, ...options };
  if (connection && connection.state !== "closed") {
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
  return connection;
}

/** `connect().on(type, listener)` */
export const on = (type, listener) => connect().on(type, listener);

/** `connect().subscribe(topics, listener, options)` */
export const subscribe = (topics, listener, options) => connect().subscribe(topics, listener, options);

/** `connect().presence(topic, callbacks, options)` */
export const presence = (topic, callbacks, options) => connect().presence(topic, callbacks, options);
