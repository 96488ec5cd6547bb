"""A panel of Flask-DebugToolbar with the updates that a request published, and whether its user reads them.

``app.config["DEBUG_TB_PANELS"] = (..., "flask_mercure.debug_panel.MercurePanel")``
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import current_app, g, has_request_context

from flask_mercure.errors import ConfigurationError
from flask_mercure.explanation.selection import Granted, selection, shown
from flask_mercure.grants import cookie_of
from flask_mercure.publishing.events import publish_failed, update_published
from flask_mercure.state import state_of
from flask_mercure.topics import matchers
from mercure_hub import INSTALL

try:
    from flask_debugtoolbar.panels import DebugPanel
except ImportError:
    raise ConfigurationError(
        f"the panel needs Flask-DebugToolbar, which is not installed; {INSTALL.format('debug')}"
    ) from None

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flask_mercure.errors import MercureError
    from flask_mercure.updates import Publication

_KEY = "_mercure_debug_panel"
_MAX_SHOWN = 500  # updates
_MAX_CHARACTERS = 4000  # of the data of one

_TEMPLATE = """
{% if rows %}
  <table>
    <thead>
      <tr>
        <th>Topics</th><th>Data</th><th>Private</th><th>Current user</th><th>Type</th><th>Time</th>
        <th>Id or error</th><th>Hub</th>
      </tr>
    </thead>
    <tbody>
      {% for row in rows %}
        <tr class="{{ loop.cycle('flDebugOdd', 'flDebugEven') }}">
          <td>{% for topic in row.update.topics %}<div><code>{{ topic }}</code></div>{% endfor %}</td>
          <td style="width: 40%">
            {% if row.data %}
              <pre style="white-space: pre-wrap; overflow-wrap: anywhere; margin: 0">{{ row.data }}</pre>
            {% endif %}
          </td>
          <td>{{ "private" if row.update.private }}</td>
          <td>{{ reading(row) }}</td>
          <td>{{ row.update.type or "" }}</td>
          <td style="white-space: nowrap">{{ "%.1f ms"|format(row.seconds * 1000) }}</td>
          <td>
            {% if row.error is none %}<code>{{ row.id }}</code>
            {% else %}<strong>{{ row.error_type }}</strong>: {{ row.error }}{% endif %}
          </td>
          <td>{{ row.hub }}</td>
        </tr>
      {% endfor %}
    </tbody>
  </table>
  {% if left_out %}<p>And {{ left_out }} more.</p>{% endif %}
{% else %}
  <p>This request published nothing.</p>
{% endif %}
"""


@dataclass(frozen=True, slots=True)
class _Row:
    """One update of the request."""

    hub: str
    update: Publication
    seconds: float
    id: str | None = None
    error: MercureError | None = None

    @property
    def data(self) -> str:
        data = self.update.data
        if len(data) <= _MAX_CHARACTERS:
            return data
        return f"{data[:_MAX_CHARACTERS]}… ({len(data)} characters)"

    @property
    def error_type(self) -> str:
        return type(self.error).__name__


def _note(_sender: object, **values: Any) -> None:
    """Keep an update of the current request, if it has a panel."""
    if has_request_context():
        rows = g.get(_KEY)
        if rows is not None:
            rows.append(_Row(**values))


class MercurePanel(DebugPanel):  # type: ignore[misc, unused-ignore]
    """Lists topics, data, id or error, and time of each update; private data too."""

    name = "Mercure"
    has_content = True

    def process_request(self, request: Any) -> None:  # noqa: ARG002 - the toolbar gives it
        """Start to collect."""
        setattr(g, _KEY, [])

    @property
    def _rows(self) -> list[_Row]:
        return g.get(_KEY) or []

    def nav_title(self) -> str:
        """The name in the toolbar."""
        return "Mercure"

    def nav_subtitle(self) -> str:
        """The number of updates, their longest time, and the number of failures."""
        rows = self._rows
        failed = sum(row.error is not None for row in rows)
        text = f"{len(rows)} update{'' if len(rows) == 1 else 's'}"
        if rows:
            text += f", {max(row.seconds for row in rows) * 1000:.1f} ms at most"
        return text + (f", {failed} failed" if failed else "")

    def title(self) -> str:
        """The heading of the panel."""
        return "Updates published in this request"

    def url(self) -> str:
        """Empty: the panel has no page of its own."""
        return ""

    def content(self) -> str:
        """The table."""
        rows = self._rows
        template = self.jinja_env.from_string(_TEMPLATE)
        return template.render(
            rows=rows[:_MAX_SHOWN], left_out=max(0, len(rows) - _MAX_SHOWN), reading=_Reader().reading
        )


class _Reader:
    """The user of the request, whose grants are asked for once."""

    def __init__(self) -> None:
        self._granted: dict[str, Sequence[Granted] | str] = {}

    def reading(self, row: _Row) -> str:
        """Whether the user may read an update, and why not."""
        if not row.update.private:
            return "reads it"
        if row.hub not in self._granted:
            self._granted[row.hub] = self._ask(row.hub)
        granted = self._granted[row.hub]
        if isinstance(granted, str):
            return granted
        base = state_of(current_app).hub(row.hub).configuration.public_url
        found = [selection(topic, granted, base) for topic in row.update.topics]
        by = next((one.by for one in found if one.by is not None), None)
        if by is not None:
            return f"reads it, by {shown(by)}"
        near = next((one for one in found if one.near is not None), None)
        if near is not None and near.near is not None:
            return f"cannot read it: {shown(near.near)} {near.why}"
        return "may read it: patterns were not evaluated" if found[0].skipped else "cannot read it"

    def _ask(self, hub: str) -> Sequence[Granted] | str:
        cookie = cookie_of(current_app._get_current_object(), hub)  # type: ignore[attr-defined]
        if cookie is None:
            return ""
        try:
            grants = cookie.current()
            protocol = state_of(current_app).hub(hub).configuration.protocol
            return matchers(() if grants is None else grants.topics, protocol, "topics")
        except Exception as error:  # of the app's function; the toolbar must not break the page
            return f"unknown: subscribe_grants raised {type(error).__name__}"


update_published.connect(_note)
publish_failed.connect(_note)
