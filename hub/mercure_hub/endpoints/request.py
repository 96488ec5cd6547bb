"""An HTTP request as a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from mercure_hub.protocol.errors import ContentTooLarge, InvalidRequest, UnsupportedMedia
from mercure_hub.protocol.http import Pairs, parse_form
from mercure_hub.protocol.hub_url import Identity

_FORM = "application/x-www-form-urlencoded"
_MAX_FIELDS = 1000
_PROXY_FIELDS = frozenset(
    (
        "forwarded",
        "via",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "true-client-ip",
        "x-request-start",
    )
)
_PROXY_PREFIXES = ("x-forwarded-", "x-original-", "x-envoy-", "x-amzn-", "cf-", "fastly-")

Watch = Callable[[Callable[[], None]], AbstractContextManager[object]]


@dataclass(slots=True)
class Request:
    """A complete HTTP request.

    :param method: in upper case.
    :param path: raw path, percent-encoding untouched.
    :param query_string: without ``?``.
    :param headers: by lower-case name; repeated fields are joined with a comma.
    :param body: the decoded content.
    :param peer: the client's address, behind trusted proxies.
    :param identity: the hub's public URL for this client.
    :param may_switch: the connection can switch to another protocol after this request.
    :param watch: a context manager; calls a function if the client leaves meanwhile.
    """

    method: str
    path: str
    query_string: bytes
    headers: Mapping[str, str]
    body: bytes
    peer: str
    identity: Identity
    may_switch: bool = False
    watch: Watch = lambda _: nullcontext()
    _query: Pairs | None = field(default=None, init=False)

    def header(self, name: str) -> str | None:
        """A header field by its lower-case name."""
        return self.headers.get(name)

    @property
    def came_through_a_proxy(self) -> bool:
        """Whether the request has a field that only proxies add: then the sender may be anybody."""
        return any(name in _PROXY_FIELDS or name.startswith(_PROXY_PREFIXES) for name in self.headers)

    @property
    def media_type(self) -> str:
        """Media type of the body, in lower case and without parameters; empty if there is none."""
        return (self.header("content-type") or "").partition(";")[0].strip().lower()

    @property
    def query(self) -> Pairs:
        """The parameters of the query component.

        :raises InvalidRequest: one of them is not UTF-8.
        """
        if self._query is None:
            self._query = parse_form(self.query_string)
        return self._query


def form_of(request: Request, beyond: type[InvalidRequest] = ContentTooLarge) -> Pairs:
    """The fields of a form in the body.

    :param beyond: the error for too many fields.
    :raises InvalidRequest: the body is something else, has too many fields, or is not UTF-8.
    """
    media = request.media_type
    if media != _FORM:
        raise UnsupportedMedia(f"The body is {media or 'of no type'}; send {_FORM}.", "Content-Type")
    if request.body.count(b"&") > _MAX_FIELDS:
        raise beyond(f"More than {_MAX_FIELDS} fields in one request.")
    return parse_form(request.body)
