"""HTTP/2 (RFC 9113): many requests and streams on one connection."""
