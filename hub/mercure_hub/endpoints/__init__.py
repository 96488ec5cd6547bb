"""What the hub serves over HTTP, one module for each resource.

An endpoint is a function from a hub and a request to an answer. None of them touches a socket.
"""
