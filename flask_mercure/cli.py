"""``flask mercure``: the commands, put together."""

from __future__ import annotations

from flask.cli import AppGroup

from flask_mercure.commands.hub import run_hub
from flask_mercure.commands.outbox import outbox, relay
from flask_mercure.commands.updates import publish, subscribe, token
from flask_mercure.doctor.command import doctor

mercure = AppGroup("mercure", help="Publish to the Mercure hub, subscribe to it, run it for development.")
for _command in (run_hub, publish, token, subscribe, relay, outbox, doctor):
    mercure.add_command(_command)
