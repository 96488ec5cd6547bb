// Topic matchers: their place in a URL, and which topics they match (spec, Matcher Types).

/**
 * @typedef {string | {match: string, match_type?: "exact" | "urlpattern"}} Topic
 * @typedef {{type: "exact" | "urlpattern", value: string}} Matcher
 * @typedef {Map<string, Matcher>} Matchers by a key that two equal ones share
 */

/**
 * Read what an application calls topics.
 *
 * @param {Topic | Iterable<Topic>} topics
 * @returns {Matchers}
 */
export function readTopics(topics) {
  const isOne = typeof topics === "string" || (topics && "match" in topics);
  const several = isOne ? [topics] : [...(topics ?? [])];
  return new Map(several.map(read).map((matcher) => [`${matcher.type} ${matcher.value}`, matcher]));
}

function read(topic) {
  const { match, match_type: type = "exact" } = typeof topic === "string" ? { match: topic } : (topic ?? {});
  if (typeof match !== "string" || match === "") {
    throw new TypeError(`${JSON.stringify(topic)} is no topic: give a string or {match, match_type}`);
  }
  if (type !== "exact" && type !== "urlpattern") {
    throw new TypeError(`the match_type is ${JSON.stringify(type)}; known are "exact" and "urlpattern"`);
  }
  return { type: match === "*" ? "exact" : type, value: match };
}

/** Whether each matcher of `some` is in `all`. */
export function isSubset(some, all) {
  return [...some.keys()].every((key) => all.has(key));
}

/**
 * Take the matchers and the cursor out of a URL such as `mercure_url` gives.
 *
 * @param {string} text
 * @returns {{url: URL, topics: Topic[], lastEventId: string | null, lastValue: boolean,
 *   protocol: "1.0" | "0.x" | null}}
 */
export function readUrl(text) {
  const url = new URL(text, document.baseURI);
  const topics = [];
  let lastEventId = null;
  let lastValue = false;
  let protocol = null;
  for (const [name, value] of [...url.searchParams]) {
    if (name === "match" || name === "match_exact") topics.push(value);
    else if (name === "match_urlpattern") topics.push({ match: value, match_type: "urlpattern" });
    else if (name === "topic") topics.push(value);
    else if (name === "last_event_id" || name === "lastEventID") lastEventId = value || null;
    else if (name === "last_value") lastValue = value === "1";
    else continue;
    if (name === "topic" || name === "lastEventID") protocol = "0.x";
    url.searchParams.delete(name, value);
  }
  return { url, topics, lastEventId, lastValue, protocol };
}

/**
 * The URL of a subscription.
 *
 * @param {URL} base
 * @param {Matchers} matchers
 * @param {"1.0" | "0.x"} protocol
 * @param {string | null} cursor `null` starts now, and has this project's hub say where that is
 * @param {boolean} lastValue without a cursor, begin with the newest update of each topic
 */
export function subscriptionUrl(base, matchers, protocol, cursor, lastValue) {
  const url = new URL(base);
  for (const { type, value } of matchers.values()) {
    if (protocol === "0.x") url.searchParams.append("topic", value);
    else url.searchParams.append(type === "exact" ? "match" : "match_urlpattern", value);
  }
  url.searchParams.set(protocol === "0.x" ? "lastEventID" : "last_event_id", cursor ?? "");
  if (lastValue) url.searchParams.set("last_value", "1");
  return url;
}

/**
 * A function that tells whether one of a few matchers matches a topic.
 *
 * @param {Matchers} matchers
 * @param {URL} base the hub's URL: relative patterns and topics are resolved against it
 * @param {"1.0" | "0.x"} protocol
 * @returns {((topic: string) => boolean) | null} `null` when only the hub can tell: it has URI Templates, and some
 *   browsers have no `URLPattern`
 * @throws {TypeError} one is no URL Pattern
 */
export function topicFilter(matchers, base, protocol) {
  const exact = new Set();
  const patterns = [];
  for (const { type, value } of matchers.values()) {
    if (type === "exact" && !(protocol === "0.x" && value.includes("{"))) exact.add(value);
    else if (type === "exact" || typeof URLPattern !== "function") return null;
    else patterns.push(new URLPattern(value, base.href));
  }
  return (topic) =>
    exact.has("*") || exact.has(topic) || patterns.some((pattern) => pattern.test(topic, base.href));
}
