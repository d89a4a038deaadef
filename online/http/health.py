"""Check whether the broker answers, for many callers at once."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from starlette.concurrency import run_in_threadpool

from data.settings import KafkaSettings
from data.stream.clients import client_config
from data.stream.records import PREDICTIONS

TIMEOUT_S = 2.0
SHARED_S = 1.0
"""How long all callers share an answer: a broker that is away costs one thread, however many callers ask."""


class BrokerCheck:
    """Ask the broker for its topics, one request at a time, with a separate client: the reading client may block."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._servers = settings.kafka_bootstrap_servers
        # The client has no log: the answer has the error.
        self._admin = AdminClient(client_config(settings) | {"reconnect.backoff.max.ms": 500})
        self._asking = asyncio.Lock()
        self._answer: dict[str, Any] = {}
        self._answer_ends = -math.inf

    async def answer(self) -> dict[str, Any]:
        """Return the broker's state, at most `SHARED_S` old, within `TIMEOUT_S` and a little.

        Returns:
            `ok`, with `answered_ms` or a `problem`.
        """
        async with self._asking:
            if time.monotonic() >= self._answer_ends:
                self._answer = await run_in_threadpool(self.ask)
                self._answer_ends = time.monotonic() + SHARED_S
            return self._answer

    def ask(self) -> dict[str, Any]:
        """Return the broker's state now, see `answer`. The calling thread waits."""
        started = time.perf_counter()
        try:
            # All topics: asking for one by name would create it where brokers do that.
            topics = self._admin.list_topics(timeout=TIMEOUT_S).topics
        except KafkaException as error:
            return {"ok": False, "problem": f"{self._servers}: {error.args[0].str()}"}
        if PREDICTIONS not in topics:
            return {"ok": False, "problem": f"{self._servers} has no topic {PREDICTIONS}"}
        return {"ok": True, "answered_ms": round(1e3 * (time.perf_counter() - started), 1)}
