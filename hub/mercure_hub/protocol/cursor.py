"""Where a subscriber wants to resume (spec, Reconciliation)."""

from __future__ import annotations

from mercure_hub.protocol.form import Pairs

EARLIEST = "earliest"

_PARAMETER = "last_event_id"
_OLD_PARAMETERS = ("lastEventID", "Last-Event-ID", "last-event-id")
_OF_POLYFILL = "lastEventId"
"""In which event-source-polyfill sends what others send in the header, beside the parameters of its URL."""


def requested(header: str | None, query: Pairs, *, old_names: bool) -> str | None:
    """The event id after which the subscriber wants its updates.

    :param header: value of ``Last-Event-ID``; it wins over the parameters.
    :param query: parameters of the query component.
    :param old_names: accept the parameter names of 0.x too, and first of all ``lastEventId``, which
        event-source-polyfill adds to its URL when it connects again.
    :returns: the id, ``earliest``, or ``None`` when no cursor was sent. It is empty when all that were
        sent are: then nothing is resumed.
    """
    names = (_OF_POLYFILL, _PARAMETER, *_OLD_PARAMETERS) if old_names else (_PARAMETER,)
    sent = [] if header is None else [header]
    sent += [value for wanted in names for name, value in query if name == wanted]
    return next(filter(None, sent), "") if sent else None
