"""The same for dramatiq, with its results kept in the same Redis. Imported by its worker processes and its client."""

from __future__ import annotations

import os

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

_server = redis.Redis.from_url(os.environ["REDIS_URL"], password=os.environ["REDIS_PASSWORD"])

broker = RedisBroker(client=_server)
broker.add_middleware(Results(backend=RedisBackend(client=_server), store_results=True))
dramatiq.set_broker(broker)


def _noop(payload: dict[str, object]) -> object:
    return payload["number"]


noop = dramatiq.actor(_noop, actor_name="noop", max_retries=0)
