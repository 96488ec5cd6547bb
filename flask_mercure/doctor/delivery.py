"""Whether updates arrive on the streams that are open, when, and how long quiet streams live."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from flask_mercure.doctor.connection import Stream
from flask_mercure.doctor.findings import (
    Finding,
    Symptom,
    apache,
    app,
    hub,
    nginx,
    note,
    ok,
    problem,
    warning,
)

_LATE = 1.0  # seconds
_HEARTBEAT_AFTER = 1.0  # seconds; an earlier comment belongs to the opening of the stream

_UNBUFFERED = (
    nginx("proxy_http_version 1.1; proxy_buffering off; proxy_cache off; gzip off;"),
    apache("ProxyPass … flushpackets=on"),
    apache("SetEnv no-gzip 1"),
)
_UNCOMPRESSED = (nginx("gzip off;"), apache("SetEnv no-gzip 1"), apache("SetEnv no-brotli 1"))


@dataclass(frozen=True, slots=True)
class Arrival:
    """What came of an update on one stream. Times in seconds.

    :param name: of the URL, for messages.
    :param head_after: from the request to the head of the answer; ``None`` when it did not come.
    :param arrived_after: from the publication to the update; ``None`` when it did not come.
    :param encoding: ``Content-Encoding``.
    :param has_begun: any content has come.
    """

    name: str
    head_after: float | None
    arrived_after: float | None
    encoding: str = ""
    has_begun: bool = False


def arrival(stream: Stream, data: str, published_at: float) -> Arrival:
    """What came of an update on a stream.

    :param data: the content of the update, which no other has.
    :param published_at: on the monotonic clock.
    """
    at = stream.events.get(data)
    arrived_after = None if at is None else max(at - published_at, 0.0)
    encoding = stream.head.headers.get("Content-Encoding", "").lower().removeprefix("identity")
    return Arrival(stream.name, stream.head_after, arrived_after, encoding, stream.has_begun)


def delivered(
    direct: Arrival, public: Arrival | None, *, within: float, came_back: bool | None
) -> Iterator[Finding]:
    """Compare the hub's own port with the public address.

    :param direct: on the hub's own port, where the app publishes.
    :param public: at the public address; ``None`` when it is the same, or no stream was opened.
    :param within: seconds that an update may take.
    :param came_back: an update published at the public URL arrived on the direct stream; ``None`` when it
        could not be published there.
    """
    if public is not None and public.arrived_after is not None:
        yield _on_time(direct, public, public.arrived_after)
        if public.encoding and not direct.encoding:
            yield warning(
                "delivery",
                f"a proxy compresses the stream ({public.encoding}): it costs memory for each subscriber, "
                "and holds updates back unless it flushes after each of them",
                Symptom.COMPRESSION,
                *_UNCOMPRESSED,
            )
    elif direct.arrived_after is None:
        yield problem(
            "delivery",
            f"the hub took an update and delivered it to nobody within {within:g} s, though the subscriber's "
            "token allows its topic. Does MERCURE_URL lead to several hubs that do not share their history, "
            "or does the token factory leave topics out?",
            Symptom.NOT_DELIVERED,
        )
    elif public is None:
        yield ok("delivery", f"a private update arrives after {_shown(direct.arrived_after)}")
    elif came_back is False:
        yield problem(
            "delivery",
            f"{direct.name} and {public.name} lead to different hubs: what is published at one does not "
            "arrive at the other",
            Symptom.DIFFERENT_HUBS,
            app('MERCURE_URL = "<the hub behind MERCURE_PUBLIC_URL>"'),
            nginx("proxy_pass http://127.0.0.1:3000;  # the address of MERCURE_URL"),
            apache('ProxyPass "http://127.0.0.1:3000/.well-known/mercure" …'),
        )
    else:
        yield _held_back(direct.name, _shown(direct.arrived_after), public, within, came_back=came_back)


def _on_time(direct: Arrival, public: Arrival, arrived_after: float) -> Finding:
    if direct.arrived_after is None or arrived_after - direct.arrived_after <= _LATE:
        return ok(
            "delivery",
            f"a private update from {direct.name} arrives on {public.name} after {_shown(arrived_after)}",
        )
    return warning(
        "delivery",
        f"an update arrives after {_shown(direct.arrived_after)} on {direct.name} and after "
        f"{_shown(arrived_after)} on {public.name}: a proxy holds the stream back for a while",
        Symptom.BUFFERING,
        *_UNBUFFERED,
    )


def _held_back(
    direct_name: str, direct_after: str, public: Arrival, within: float, *, came_back: bool | None
) -> Finding:
    if public.head_after is None:
        held = "not even the head of the stream comes"
    else:
        held = "the stream opens and the update does not come" if public.has_begun else "nothing comes"
    summary = f"an update arrives after {direct_after} on {direct_name}, and on {public.name} {held} within "
    summary += f"{within:g} s"
    if public.encoding:
        summary += f", compressed as {public.encoding}: the proxy compresses the stream and holds it back"
        return problem("delivery", summary, Symptom.COMPRESSION, *_UNCOMPRESSED)
    summary += ": a proxy buffers the stream"
    if not came_back:
        summary += ", or it leads to another hub (publishing there was not possible, to tell)"
    return problem("delivery", summary, Symptom.BUFFERING, *_UNBUFFERED)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long a stream lived. Times in seconds.

    :param name: of the URL, for messages.
    :param seconds: from its opening to its end, or to the end of the observation.
    :param has_ended: the other side ended it.
    :param silence: since the last byte.
    :param heartbeats: number of comments after the opening.
    """

    name: str
    seconds: float
    has_ended: bool
    silence: float
    heartbeats: int


def lifetime(stream: Stream) -> Lifetime:
    """How long a stream has lived."""
    end = stream.ended_at or time.monotonic()
    heartbeats = len(heartbeats_of(stream))
    return Lifetime(stream.name, end - stream.opened_at, not stream.is_open, end - stream.last_at, heartbeats)


def heartbeats_of(stream: Stream) -> list[float]:
    """When comments came that kept the stream alive, on the monotonic clock."""
    return [at for at in stream.comments if at - stream.opened_at >= _HEARTBEAT_AFTER]


def kept(public: Lifetime, direct: Lifetime | None, patience: float) -> Finding:
    """Whether quiet streams live.

    :param public: the stream of the browsers.
    :param direct: the one on the hub's own port, for comparison.
    :param patience: seconds of observation.
    """
    if not public.has_ended:
        if public.heartbeats:
            return ok(
                "patience", f"the stream is open after {_shown(public.seconds)}, with a heartbeat of the hub"
            )
        return note(
            "patience",
            f"the stream is open after {_shown(public.seconds)}, without a heartbeat so far: to see whether "
            f"a proxy cuts quiet streams later, use a larger --patience than {patience:g}, above the hub's "
            "MERCURE_HEARTBEAT",
            Symptom.CUT,
        )
    if direct is None:
        return problem(
            "patience",
            f"{public.name} was cut after {_shown(public.silence)} of silence, {_shown(public.seconds)} "
            "after it opened: by the time-out of a proxy that is shorter than the hub's heartbeat, by the "
            "end of the token, or by the hub's limit for a connection",
            Symptom.CUT,
            nginx("proxy_read_timeout 1h;"),
            apache("ProxyPass … timeout=3600"),
            hub("MERCURE_WRITE_TIMEOUT=600"),
        )
    if direct.has_ended:
        return problem(
            "patience",
            f"the hub ended the stream after {_shown(public.seconds)}: the token's lifetime, the hub's limit "
            "for a connection, or a restart",
            Symptom.CUT,
            app("MERCURE_TOKEN_LIFETIME = 3600"),
            hub("MERCURE_WRITE_TIMEOUT=600"),
        )
    limit = max(int(public.silence), 1)
    return problem(
        "patience",
        f"{public.name} was cut after {_shown(public.silence)} of silence, and the same stream on "
        f"{direct.name} lives: the time-out of a proxy is shorter than the hub's heartbeat",
        Symptom.CUT,
        nginx("proxy_read_timeout 1h;"),
        apache("ProxyPass … timeout=3600"),
        hub(f"MERCURE_HEARTBEAT={max(limit // 2, 1)}  # if the proxy is not yours"),
    )


def _shown(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
