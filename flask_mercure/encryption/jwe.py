"""Updates that the hub cannot read: JSON Web Encryption (spec, Encryption; RFC 7516).

The content is always encrypted with ``A256GCM`` under a key of its own, which is wrapped for each recipient.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from flask_mercure.encryption.key_set import MEMBER, KeySet, compact_json
from flask_mercure.encryption.keys import Key, is_native, joserfc_modules, read
from flask_mercure.errors import EncryptionError, InvalidArgument
from flask_mercure.topics.characters import check_media_type

if TYPE_CHECKING:
    from flask_mercure.encryption.keys import JWK

    Recipients: TypeAlias = JWK | KeySet | Iterable[JWK | KeySet]

_CONTENT = "A256GCM"


def encrypt(content: str | bytes, recipients: Recipients, content_type: str) -> str:
    """Encrypt the content of an update.

    :param content: text is encoded as UTF-8.
    :param recipients: who shall read it: a public JWK, a secret one, a :class:`KeySet` (its newest key), or
        several of these.
    :param content_type: media type of the content; it stays readable, as the header ``cty``.
    :returns: a JWE: in compact serialization for one recipient, in general JSON serialization for several.
    :raises EncryptionError: a key cannot be used.
    :raises ConfigurationError: the extra ``encryption`` is not installed.
    """
    keys = _recipients(recipients)
    octets = content if isinstance(content, bytes) else _encoded(content)
    if octets is None:
        raise InvalidArgument("data holds a lone surrogate, which UTF-8 cannot carry")
    header = {"enc": _CONTENT, "cty": _short(check_media_type(content_type, "content_type"))}
    message = _sealed(octets, keys, header)
    if message is None:
        # A public key that another side made up: its numbers have the right size, and no cipher takes them.
        raise EncryptionError(f"nothing can be encrypted for {', '.join(repr(key.id) for key in keys)}")
    return message


def _sealed(content: bytes, keys: list[Key], header: dict[str, str]) -> str | None:
    """The JWE; ``None`` when a key does not work after all."""
    joserfc = joserfc_modules()
    try:
        return _serialized(joserfc.jwe, content, keys, header)
    except (joserfc.errors.JoseError, ValueError):
        return None


def _serialized(jwe: Any, content: bytes, keys: list[Key], header: dict[str, str]) -> str:
    algorithms = [_CONTENT, *dict.fromkeys(key.algorithm for key in keys)]
    if len(keys) == 1:
        (key,) = keys
        header |= {"alg": key.algorithm, "kid": key.id}
        compact: str = jwe.encrypt_compact(header, content, key.native, algorithms=algorithms)
        return compact
    message = jwe.GeneralJSONEncryption(header, content)
    for key in keys:
        message.add_recipient({"alg": key.algorithm, "kid": key.id}, key.native)
    return compact_json(jwe.encrypt_json(message, None, algorithms=algorithms))


def _recipients(recipients: object) -> list[Key]:
    if isinstance(recipients, Mapping) and MEMBER in recipients:
        raise EncryptionError(
            "this is a whole JWK set: give KeySet.load(...) of your own keys, to use the newest of them, or "
            "the list jwk_set['keys'], to encrypt for each of its public keys"
        )
    if isinstance(recipients, str | bytes):
        raise TypeError("the key is text; give a JWK as a dict, or KeySet.load(...)")
    several = recipients if isinstance(recipients, Iterable) else [recipients]
    if isinstance(recipients, Mapping) or is_native(recipients):
        several = [recipients]
    keys = [one._newest() if isinstance(one, KeySet) else read(one, private=False) for one in several]
    if not keys:
        raise EncryptionError("there is no key to encrypt for; nobody could read the update")
    return keys


def _encoded(text: str) -> bytes | None:
    """Text as UTF-8, or ``None``: the error of the codec has the whole text in it."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None


def _short(media_type: str) -> str:
    """The form that ``cty`` has: ``application/`` is left out where nothing is lost (RFC 7516, 4.1.12)."""
    rest = media_type.removeprefix("application/")
    return media_type if "/" in rest else rest
