"""The files that put the hub into a system: units, proxies, images. ``mercure-hub install`` prints them."""
