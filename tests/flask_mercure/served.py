"""The app that test_wsgi_servers.py has served; see there for its environment."""

from __future__ import annotations

import os
import threading

from flask import Flask, request

from flask_mercure import Mercure
from tests.flask_mercure.fake_hub import SECRET

app = Flask("served")
app.config.update(MERCURE_URL=os.environ["MERCURE_URL"], MERCURE_JWT_SECRET=SECRET)
app.config["MERCURE_ON_FAILURE"] = os.environ.get("ON_FAILURE", "raise")
mercure = Mercure(app)

if os.environ["BEFORE_FORK"]:  # so that the pool has an open connection when workers are forked
    with app.app_context():
        mercure.publish(os.environ["BEFORE_FORK"], f"{os.getpid()} 0 before", private=False)


@app.post("/publish")
def publish() -> str:
    """Publish what the form says, with who did it."""
    who = f"{os.getpid()} {threading.get_ident()}"
    return mercure.publish(
        request.form["topic"], f"{who} {request.form['data']}", id=request.form["id"], private=False
    )
