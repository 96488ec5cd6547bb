"""Each refusal carries what its answer needs."""

from __future__ import annotations

import pytest

from mercure_hub.protocol import errors

CLASSES = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_one_tree(kind: type[Exception]) -> None:
    assert issubclass(kind, errors.MercureError)
    assert kind.__doc__
    assert kind.__name__ in (errors.__doc__ or "")


def test_what_they_hold() -> None:
    request = errors.InvalidRequest("wrong", "topic")
    assert (str(request), request.detail, request.field) == ("wrong", "wrong", "topic")
    assert errors.InvalidRequest("wrong").field is None
    assert errors.MethodNotAllowed("wrong", "GET, HEAD").allow == "GET, HEAD"
    assert errors.TooManyRequests("wrong", 5).retry_after == 5
    token = errors.TokenInvalid("expired")
    assert (str(token), token.cause) == ("expired", "expired")
    assert errors.StorageError("the disk is full").detail == "the disk is full"
