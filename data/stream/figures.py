"""Publish figures of batch jobs, and follow the figures, on the topic `figures`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import msgspec
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Message, Producer

from data.names import NotRead
from data.settings import KafkaSettings
from data.stream.clients import idempotent_config
from data.stream.codec import Records, decode_records, encode
from data.stream.reader import TopicReader
from data.stream.records import FIGURES, Figure

WRITTEN_S = 30.0
"""Time for the broker to take the figures of a job that nobody waits for."""

decode_figure = msgspec.json.Decoder(Figure).decode
"""Decode a record of `figures`; raises msgspec.ValidationError for another record."""


def publish_figures(settings: KafkaSettings, figures: Iterable[Figure], within_s: float = WRITTEN_S) -> None:
    """Write figures, and return once the broker has them. A figure may be written again: readers keep the newest.

    Raises:
        ValueError: a figure is not finite; nothing is written.
        NotRead: the broker does not answer within `within_s` seconds, or refuses; some figures may be written.
    """
    wanted = list(figures)
    for figure in wanted:
        if not math.isfinite(figure.value):
            raise ValueError(f"a figure must be finite, {figure.key} was {figure.value}")
    refused: list[str] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            refused.append(error.str())

    config = idempotent_config(settings, linger_ms=5) | {"message.timeout.ms": int(1_000 * within_s)}
    try:
        producer = Producer(config | {"on_delivery": delivered})
        for figure in wanted:
            producer.produce(FIGURES, encode(figure), figure.key, partition=0, timestamp=figure.at // 1_000_000)
        missing = producer.flush(within_s + 1)
    except KafkaException as error:
        raise NotRead(f"figures were not written: {error.args[0].str()}") from error
    if refused or missing:
        raise NotRead(
            f"{len(refused) + missing} of {len(wanted)} figures were not written to {FIGURES} at "
            f"{settings.kafka_bootstrap_servers}: {refused[0] if refused else 'no answer'}; "
            f"is the stack up (`make run`)?"
        )


def publish_or_warn(
    settings: KafkaSettings, figures: Iterable[Figure], warn: Callable[[str], None], within_s: float = WRITTEN_S
) -> bool:
    """Write figures whose loss must stop nothing: hand the reason to `warn`, and return False, if the broker is away.

    Raises:
        ValueError: a figure is not finite; nothing is written.
    """
    try:
        publish_figures(settings, figures, within_s)
    except NotRead as error:
        warn(str(error))
        return False
    return True


class FiguresReader(AbstractContextManager["FiguresReader"]):
    """Follows `figures` in a `with` block.

    Args:
        running: see `TopicReader`.
    """

    def __init__(self, settings: KafkaSettings, running: Callable[[], bool] | None = None) -> None:
        self._reader = TopicReader(settings, running=running)
        self._next = OFFSET_BEGINNING

    def __exit__(self, *_: object) -> None:
        self._reader.__exit__()

    def read(self) -> Records:
        """Return the records since the last call, oldest first; the first call returns all records.

        A figure may come several times: the newest figure of a key is the last in order.

        Raises:
            NotRead, Stopped, KafkaException: see `TopicReader`.
        """
        values: list[bytes] = []
        for block in self._reader.read(FIGURES, 0, self._next):
            values += block.values
            self._next = block.offsets[-1] + 1
        return decode_records(values, decode_figure)
