"""Signals of blinker, for an application that wants to see what is published.

A receiver watches; it cannot stop a publication, and what it raises is logged and goes no further: an
update that is out is not undone because a counter broke.
"""

from __future__ import annotations

import logging

from blinker import NamedSignal, Namespace

_signals = Namespace()
_log = logging.getLogger("flask_mercure")

#: An update was published. The sender is the app, or ``None`` outside of an app context. Values:
#:
#: * ``hub``: name of the hub in the app's configuration, a ``str``;
#: * ``update``: a :class:`flask_mercure.updates.Publication`, with ``topics``, ``data``,
#:   ``private``, ``id`` (as asked for), ``type`` and ``retry``. Private data is in it: mind where you write
#:   it;
#: * ``id``: of the update, as the hub answered;
#: * ``seconds``: that the request to the hub took, a ``float``; the updates of a batch share one request.
update_published: NamedSignal = _signals.signal("mercure-update-published")

#: An update was not published, or the hub did not say so. The sender and the values ``hub``, ``update`` and
#: ``seconds`` are those of :data:`update_published`; in place of ``id`` there is
#:
#: * ``error``: the :class:`~flask_mercure.MercureError`, often a :class:`~flask_mercure.PublishError` with
#:   ``status``, ``reason`` and ``possibly_published``.
publish_failed: NamedSignal = _signals.signal("mercure-publish-failed")


def tell(signal: NamedSignal, sender: object, **values: object) -> None:
    """Send a signal to its receivers, one by one, so that none keeps another from hearing of it."""
    if not signal.receivers:
        return
    for receiver in signal.receivers_for(sender):
        try:
            receiver(sender, **values)
        except Exception:
            _log.exception("a receiver of the signal %s failed", signal.name)
