"""The Mercure hub: streams updates to browsers over Server-Sent Events.

The packages, from the inside out:

* ``protocol`` - the rules of the Mercure protocol, as values and functions;
* ``key_files`` - keys that are configured as the path of a file;
* ``storage`` - the durable history of updates;
* ``fanout`` - the connected subscribers and the engine that writes to them;
* ``metrics`` - counters that all workers share, and their page for Prometheus;
* ``config`` - the settings: one table, and the code that reads them;
* ``broker`` - publish, replay and dispatch: where storage and fan-out meet;
* ``endpoints`` - one module for each resource served over HTTP;
* ``server`` - sockets, HTTP, TLS, logs, worker processes;
* ``tools`` - commands beside the hub: history, installation, conversion.
"""

__version__ = "0.1.0"

DOCUMENTATION = "https://github.com/flask-mercure/flask-mercure/blob/main/docs"
"""Where the pages are, for messages to people who have installed a package and no clone."""

PACKAGES = (
    *("gevent", "sqlalchemy", "geventwebsocket", "prometheus_client", "httptools", "hpack", "urlpattern"),
    "re2",
)
"""What the extra ``hub`` brings, as modules, but for backports.zstd, which the hub can do without."""

NOT_ON_WINDOWS = f"the hub needs Linux or macOS; on Windows, run it in WSL 2: {DOCUMENTATION}/platforms.md"

INSTALL = "in a clone of flask-mercure: pip install '.[{}]'"
"""How an extra is installed. Not by name: until it is ours on the package index, anybody can take it."""
