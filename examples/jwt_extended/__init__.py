"""An app that signs its Mercure tokens with Flask-JWT-Extended."""
