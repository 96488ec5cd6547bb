// Reads what was encrypted for this page: JSON Web Encryption (RFC 7516) with the browser's WebCrypto.
//
// It knows JWE and nothing of Mercure or of the page: copy this one. It takes the compact and both JSON
// serializations, ECDH-ES+A256KW (P-256, P-384, P-521), RSA-OAEP-256 and A256KW, with A256GCM, and refuses
// everything else. WebCrypto exists with TLS and on localhost only.

const AGAIN_AFTER = 5_000; // milliseconds between two times that the keys are fetched

/** `code`: malformed, unsupported, no-key, tampered, or keys (they could not be fetched). */
export class JWEError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "JWEError";
    this.code = code;
  }
}

/** Keys to decrypt with, from the application, or from a JWK set that is there already. */
export class KeySet {
  #url = null;
  #jwks = [];
  #imported = new WeakMap(); // JWK → Map from the algorithm to its CryptoKey, or a promise of it
  #fetched = -Infinity;
  #fetching = null;
  #management;
  #content;

  /**
   * @param source URL of the JWK set, or the set itself. There a key may have a CryptoKey as `privateKey`, beside
   *   the members of the public JWK: one that the browser made and that no script can export.
   * @param tables other algorithms, for tests with the examples of the RFCs.
   */
  constructor(source, { management = MANAGEMENT, content = CONTENT } = {}) {
    if (typeof source === "string" || source instanceof URL) this.#url = source;
    else this.#jwks = source.keys;
    this.#management = management;
    this.#content = content;
  }

  /**
   * Decrypts a message: its `bytes`, `text` and `json()`, its `contentType`, and `kid` and `alg` of the key.
   *
   * A message for a key that is not known yet waits until the set was fetched again: keys are changed.
   */
  async decrypt(text) {
    const message = parse(text, this.#management, this.#content);
    if (!this.#candidates(message).length && this.#url !== null) await this.#fetch();
    const candidates = this.#candidates(message);
    if (!candidates.length) {
      const ids = message.recipients.map(({ header }) => header.kid ?? "without kid");
      throw new JWEError("no-key", `no key for this message (${ids.join(", ")})`);
    }
    for (const { recipient, jwk } of candidates) {
      const bytes = await this.#open(message, recipient, jwk);
      if (bytes) return new Content(bytes, recipient.header);
    }
    // One answer, whichever step failed: which one it was is of use to an attacker only.
    throw new JWEError("tampered", "the message was changed on its way, or is for another key");
  }

  /** Recipients, each with a key that its header names and that is for its algorithm. */
  #candidates({ recipients }) {
    return recipients.flatMap((recipient) => {
      const { kid, alg } = recipient.header;
      const fits = (jwk) =>
        (kid === undefined || jwk.kid === kid) &&
        jwk.kty === this.#management[alg].kty &&
        (jwk.alg ?? alg) === alg &&
        (jwk.use ?? "enc") === "enc";
      return this.#jwks.filter(fits).map((jwk) => ({ recipient, jwk }));
    });
  }

  async #open(message, { header, encryptedKey }, jwk) {
    const bits = this.#content[header.enc];
    const { iv, sealed, aad } = message;
    try {
      const key = await this.#import(jwk, header.alg);
      const contentKey = await this.#management[header.alg].unwrap(key, encryptedKey, header);
      if (contentKey.algorithm.length !== bits) return null;
      const how = { name: "AES-GCM", iv, additionalData: aad, tagLength: 128 };
      return new Uint8Array(await crypto.subtle.decrypt(how, contentKey, sealed));
    } catch {
      return null;
    }
  }

  #import(jwk, alg) {
    if (!this.#imported.has(jwk)) this.#imported.set(jwk, new Map());
    const imported = this.#imported.get(jwk);
    if (!imported.has(alg)) imported.set(alg, jwk.privateKey ?? this.#management[alg].import(jwk));
    return imported.get(alg);
  }

  /** One request for all messages that wait, and not one for each message with a new kid. */
  #fetch() {
    this.#fetching ??= (async () => {
      const wait = this.#fetched + AGAIN_AFTER - performance.now();
      if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
      this.#fetched = performance.now();
      const options = { credentials: "same-origin", cache: "no-store" };
      const response = await fetch(this.#url, options).catch(() => null);
      if (!response?.ok) throw new JWEError("keys", `no keys: the answer was ${response?.status ?? "none"}`);
      this.#jwks = (await response.json()).keys;
    })().finally(() => {
      this.#fetching = null;
    });
    return this.#fetching;
  }
}

/** What was in a message. */
export class Content {
  constructor(bytes, { cty, kid, alg }) {
    this.bytes = bytes;
    this.kid = kid;
    this.alg = alg;
    this.contentType = cty === undefined || cty.includes("/") ? cty : `application/${cty}`;
  }

  get text() {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.bytes);
  }

  json() {
    return JSON.parse(this.text);
  }
}

/** The header of a message, which anybody can read. For messages with several recipients, the part of all. */
export function protectedHeader(text) {
  return object(decodeText(text.startsWith("{") ? object(text).protected : text.split(".", 1)[0]));
}

// -- the algorithms -----------------------------------------------------------------------------

/** Key agreement with an ephemeral key, then AES Key Wrap (RFC 7518, 4.6). */
export const ecdhEs = (name, bits) => ({
  kty: "EC",
  import: ({ kty, crv, x, y, d }) =>
    crypto.subtle.importKey("jwk", { kty, crv, x, y, d }, { name: "ECDH", namedCurve: crv }, false, ["deriveBits"]),
  async unwrap(key, encryptedKey, { epk, apu, apv }) {
    const { kty, crv, x, y } = epk;
    // The browser refuses points that are not on the curve.
    const curve = { name: "ECDH", namedCurve: key.algorithm.namedCurve };
    const publicKey = await crypto.subtle.importKey("jwk", { kty, crv, x, y }, curve, false, []);
    const shared = await crypto.subtle.deriveBits({ name: "ECDH", public: publicKey }, key, CURVE_BITS[crv]);
    const wrapping = await concatKdf(new Uint8Array(shared), name, decode(apu ?? ""), decode(apv ?? ""), bits);
    const wrappingKey = await crypto.subtle.importKey("raw", wrapping, "AES-KW", false, ["unwrapKey"]);
    return unwrap(encryptedKey, wrappingKey, "AES-KW");
  },
});

/** The content's key, encrypted with RSA (RFC 7518, 4.3). */
export const rsaOaep = (hash) => ({
  kty: "RSA",
  import: ({ kty, n, e, d, p, q, dp, dq, qi }) =>
    crypto.subtle.importKey("jwk", { kty, n, e, d, p, q, dp, dq, qi }, { name: "RSA-OAEP", hash }, false, ["unwrapKey"]),
  unwrap: (key, encryptedKey) => unwrap(encryptedKey, key, "RSA-OAEP"),
});

/** The content's key, wrapped with a secret of both sides (RFC 7518, 4.4). */
export const aesKw = (bits) => ({
  kty: "oct",
  async import({ kty, k }) {
    const key = await crypto.subtle.importKey("jwk", { kty, k }, "AES-KW", false, ["unwrapKey"]);
    if (key.algorithm.length !== bits) throw new JWEError("unsupported", `a key of ${key.algorithm.length} bits`);
    return key;
  },
  unwrap: (key, encryptedKey) => unwrap(encryptedKey, key, "AES-KW"),
});

const MANAGEMENT = {
  "ECDH-ES+A256KW": ecdhEs("ECDH-ES+A256KW", 256),
  "RSA-OAEP-256": rsaOaep("SHA-256"),
  A256KW: aesKw(256),
};
const CONTENT = { A256GCM: 256 };
const CURVE_BITS = { "P-256": 256, "P-384": 384, "P-521": 528 };

const unwrap = (encryptedKey, key, how) =>
  crypto.subtle.unwrapKey("raw", encryptedKey, key, how, "AES-GCM", false, ["decrypt"]);

/** Concat KDF with SHA-256, which is one round for up to 256 bits (RFC 7518, 4.6.2). */
export async function concatKdf(shared, algorithm, partyU, partyV, bits) {
  const number = (value) => new Uint8Array([value >>> 24, value >>> 16, value >>> 8, value]);
  const prefixed = (bytes) => joinedBytes(number(bytes.length), bytes);
  const id = new TextEncoder().encode(algorithm);
  const info = joinedBytes(prefixed(id), prefixed(partyU), prefixed(partyV), number(bits));
  const digest = await crypto.subtle.digest("SHA-256", joinedBytes(number(1), shared, info));
  return digest.slice(0, bits / 8);
}

// -- the serializations -------------------------------------------------------------------------

/** A message taken apart; nothing is decrypted yet. */
function parse(text, management, content) {
  const parts = text.startsWith("{") ? object(text) : compact(text);
  const common = parts.protected === undefined ? {} : object(decodeText(parts.protected));
  if ("recipients" in parts && !Array.isArray(parts.recipients)) throw malformed();
  // Without "recipients" the one recipient is in the message itself: the flattened form.
  const recipients = (parts.recipients ?? [parts]).map((recipient) => ({
    header: joinedHeader(common, parts.unprotected, recipient?.header),
    encryptedKey: decode(recipient?.encrypted_key ?? ""),
  }));
  for (const { header } of recipients) {
    if ("crit" in header) throw new JWEError("unsupported", "the message has critical extensions (crit)");
    if ("zip" in header) throw new JWEError("unsupported", "the message is compressed (zip)");
    if (!Object.hasOwn(content, header.enc)) throw new JWEError("unsupported", `enc is ${header.enc}`);
  }
  // Others' recipients may have what they like; when it concerns them all, that is worth telling.
  const known = recipients.filter(({ header }) => Object.hasOwn(management, header.alg));
  if (!known.length) throw new JWEError("unsupported", `alg is ${recipients.map(({ header }) => header.alg)}`);
  const iv = decode(parts.iv);
  const tag = decode(parts.tag);
  if (iv.length !== 12 || tag.length !== 16) throw malformed();
  if (parts.aad !== undefined) decode(parts.aad);
  const aad = (parts.protected ?? "") + (parts.aad === undefined ? "" : `.${parts.aad}`);
  const sealed = joinedBytes(decode(parts.ciphertext), tag);
  return { recipients: known, iv, sealed, aad: new TextEncoder().encode(aad) };
}

function compact(text) {
  const parts = text.split(".");
  if (parts.length !== 5) throw malformed();
  const [header, encryptedKey, iv, ciphertext, tag] = parts;
  return { protected: header, encrypted_key: encryptedKey, iv, ciphertext, tag };
}

/** The header of a recipient: no parameter may come from two places (RFC 7516, 7.2.1). */
function joinedHeader(...headers) {
  const all = {};
  for (const header of headers) {
    if (header === undefined) continue;
    if (header === null || typeof header !== "object" || Array.isArray(header)) throw malformed();
    for (const [name, value] of Object.entries(header)) {
      if (Object.hasOwn(all, name)) throw malformed();
      all[name] = value;
    }
  }
  return all;
}

function object(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw malformed();
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw malformed();
  return value;
}

function decode(text) {
  if (typeof text !== "string" || !/^[\w-]*$/.test(text) || text.length % 4 === 1) throw malformed();
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(binary, (character) => character.charCodeAt(0));
}

function joinedBytes(...arrays) {
  const all = new Uint8Array(arrays.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const bytes of arrays) {
    all.set(bytes, at);
    at += bytes.length;
  }
  return all;
}

const decodeText = (text) => new TextDecoder().decode(decode(text));

const malformed = () => new JWEError("malformed", "this is no JWE");
