"""mercure-publisher signs a token of 0.x itself."""

from __future__ import annotations

import os

from mercure_publisher import MercureConfig, MercurePublisher

from tests.foreign.clients.given import ARGUMENTS, HUB, tell

data, *topics = ARGUMENTS
config = MercureConfig(hub_url=HUB, publisher_jwt_key=os.environ["SECRET"], publish_topics=["*"])
with MercurePublisher(config) as publisher:
    tell(id=publisher.publish(topics, data, private=bool(os.environ.get("PRIVATE"))))
