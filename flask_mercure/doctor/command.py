"""``flask mercure doctor``: the command, and findings as text and as JSON."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import closing
from urllib.parse import urlsplit

import click
from flask import Flask, current_app
from flask.cli import with_appcontext

from flask_mercure.doctor import browser
from flask_mercure.doctor.connection import origin_of
from flask_mercure.doctor.examination import Examination, Options
from flask_mercure.doctor.findings import Finding, Level
from flask_mercure.errors import MercureError
from flask_mercure.state import HubState, state_of
from mercure_hub.protocol.errors import reference

_INTERRUPTED = 130  # the status that shells give to SIGINT
_MARK, _CHECK, _WIDTH = 9, 10, 100
_INDENT = " " * (_MARK + _CHECK)


class _Origin(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """The origin of a URL: scheme, host and port."""

    name = "url"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            parts = urlsplit(value.strip())
            is_origin = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
            origin = origin_of(parts.geturl()) if is_origin else ""
        except ValueError:
            origin = ""
        return origin or self.fail("give a URL such as https://example.com", param, ctx)


_ORIGIN = _Origin()


@click.command("doctor")
@click.option("--hub", "name", metavar="NAME", help="One of MERCURE_HUBS; all are examined otherwise.")
@click.option("--app-url", type=_ORIGIN, help="Where browsers see the app. Default: SERVER_NAME, or asks.")
@click.option(
    "--origin",
    "origins",
    type=_ORIGIN,
    multiple=True,
    help="Of pages that open streams, if it is not the app's; may be repeated.",
)
@click.option("--pages-publish", is_flag=True, help="The pages publish, with their cookie.")
@click.option(
    "--within",
    type=click.FloatRange(min=0.1, max=60),
    default=3.0,
    show_default=True,
    help="Seconds that an update may take.",
)
@click.option(
    "--patience",
    type=click.FloatRange(min=0, max=3600),
    default=45.0,
    show_default=True,
    help="Seconds to wait for a heartbeat, to see whether a proxy cuts quiet streams; 0: not at all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@with_appcontext
def doctor(
    name: str | None,
    app_url: str | None,
    origins: tuple[str, ...],
    *,
    pages_publish: bool,
    within: float,
    patience: float,
    as_json: bool,
) -> None:
    """Find out why updates do not arrive: examine app, hub, proxy and what browsers make of them.

    The hub is really asked: private updates are published on a topic of their own and received, with a token
    in a header and in the cookie. The status is 1 when there is a problem.
    """
    try:
        state = state_of(current_app)
        hubs = list(state.hubs.values()) if name is None else [state.hub(name)]
    except MercureError as error:
        raise click.ClickException(str(error)) from error
    app_url = app_url or _server_name(current_app)
    if app_url is None and not as_json and sys.stdin.isatty():
        suggested = origin_of(hubs[0].configuration.public_url)
        app_url = click.prompt("Where do browsers see the app?", default=suggested, type=_ORIGIN, err=True)
    options = Options(app_url, origins, pages_publish, within, patience)
    try:
        outcomes = [(hub, _examine(hub, options, is_shown=not as_json, named=len(hubs) > 1)) for hub in hubs]
    except KeyboardInterrupt:
        click.echo("interrupted; what was open is closed", err=True)
        sys.exit(_INTERRUPTED)
    everything = [finding for _, findings in outcomes for finding in findings]
    if as_json:
        documents = [as_document(hub.name, findings) for hub, findings in outcomes]
        click.echo(json.dumps({"healthy": is_healthy(everything), "hubs": documents}, indent=2))
    else:
        click.echo(summary(everything))
    sys.exit(0 if is_healthy(everything) else 1)


def _examine(hub: HubState, options: Options, *, is_shown: bool, named: bool) -> Sequence[Finding]:
    """Examine a hub, and show each finding as soon as it is known: the last one takes long."""
    if named and is_shown:
        click.echo(f"Hub {hub.name!r}: its settings are in MERCURE_HUBS, without the prefix.")
    findings = []
    if hub.configuration.gives_tokens:
        findings.append(browser.grants(are_registered=state_of(current_app).has_grants(hub.name)))
        if is_shown:
            click.echo(as_text(findings[0]))
    with closing(Examination(hub.configuration, options).run()) as outcomes:
        for finding in outcomes:
            findings.append(finding)
            if is_shown:
                click.echo(as_text(finding))
    return findings


def _server_name(app: Flask) -> str | None:
    name = app.config.get("SERVER_NAME")
    return origin_of(f"{app.config['PREFERRED_URL_SCHEME']}://{name}") if name else None


def is_healthy(findings: Iterable[Finding]) -> bool:
    """Tell whether there is no problem."""
    return all(finding.level is not Level.PROBLEM for finding in findings)


def as_text(finding: Finding) -> str:
    """A finding for the terminal."""
    is_bad = finding.level in (Level.WARNING, Level.PROBLEM)
    mark = finding.level.upper() if is_bad else finding.level.value
    head = f"{mark:<{_MARK}}{finding.check:<{_CHECK}}"
    lines = textwrap.wrap(
        finding.summary,
        _WIDTH,
        initial_indent=head,
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    # Lines of configuration are not wrapped: they are copied.
    lines += [f"{_INDENT}  {remedy.where}: {remedy.line}" for remedy in finding.remedies]
    if finding.section is not None:
        lines.append(f"{_INDENT}  see {reference(finding.section)}")
    return "\n".join(lines)


def summary(findings: Sequence[Finding]) -> str:
    """The last line: how many problems and warnings there are."""
    counts = [
        f"{count} {level.value}{'s' if count > 1 else ''}"
        for level in (Level.PROBLEM, Level.WARNING)
        if (count := sum(finding.level is level for finding in findings))
    ]
    if not counts:
        return "Everything that was checked works."
    return ", ".join(counts) + "."


def as_document(hub: str | None, findings: Sequence[Finding]) -> dict[str, object]:
    """The findings about a hub, for JSON."""
    return {
        "hub": hub,
        "healthy": is_healthy(findings),
        "findings": [
            {
                "check": finding.check,
                "level": finding.level.value,
                "summary": finding.summary,
                "remedies": [{"where": one.where, "line": one.line} for one in finding.remedies],
                "section": finding.section,
                "help": None if finding.section is None else reference(finding.section),
            }
            for finding in findings
        ],
    }
