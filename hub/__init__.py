"""The Mercure hub: streams updates to browsers over Server-Sent Events.

The parts, from the inside out:

* ``hub.protocol`` - the rules of the Mercure protocol, as values and functions;
* ``hub.transport`` - the durable log of updates;
* ``hub.fanout`` - the connected subscribers and the engine that writes to them;
* ``hub.broker`` - publish, replay and dispatch: where the log and the fan-out meet;
* ``hub.endpoints`` - one module for each resource that the hub serves over HTTP;
* ``hub.server`` - sockets, HTTP requests, TLS, signals;
* ``hub.setting_table``, ``hub.settings`` and ``hub.cli`` - configuration and the command.
"""

__version__ = "0.1.0"

PACKAGES = (
    *("gevent", "sqlalchemy", "geventwebsocket", "prometheus_client", "httptools", "urlpattern", "re2"),
)
"""What the extra ``hub`` brings, as modules, but for backports.zstd, which the hub can do without."""

INSTALL = "in a clone of flask-mercure: pip install '.[{}]'"
"""How an extra is installed. Not by name: until it is ours on the package index, anybody can take it."""
