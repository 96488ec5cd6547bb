"""The shells around the endpoints: sockets, HTTP, TLS, logs, signals."""
