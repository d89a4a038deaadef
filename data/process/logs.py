"""Configure logs: readable in a terminal, JSON by a setting."""

from __future__ import annotations

import json
import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor

from data.names import printable
from data.settings import ProcessSettings


class LossyLogStream:
    """Write log lines to a stream, and drop a line if the write fails: a full disk must not end the process.

    The first line that succeeds again follows a line with the number of dropped lines.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = 0

    def write(self, text: str) -> int:
        """Write a text, or drop and count the text; return its length in both cases."""
        lost = {"event": f"{self._lost} lines of this log could not be written", "level": "warning"}
        try:
            self._stream.write(f"{json.dumps(lost)}\n{text}" if self._lost else text)
            self._stream.flush()
            self._lost = 0
        except OSError:
            self._lost += 1
        return len(text)

    def flush(self) -> None:
        """Do nothing: each write is flushed."""


def _printable(_: object, __: str, event: EventDict) -> EventDict:
    """Escape what a text from outside, as a line of a recording, could do to a terminal or to the lines of a log."""
    found: EventDict = {}
    for name, value in event.items():
        if name == "event" and isinstance(value, str):
            found[name] = printable(value)
        elif isinstance(value, str) and name != "exception":  # the renderer itself quotes a value of several lines
            found[name] = "\n".join(map(printable, value.split("\n")))
        else:
            found[name] = value
    return found


def configure_logs(settings: ProcessSettings) -> None:
    """Send this process's logs to stderr in the chosen form."""
    renderers: list[Processor] = (
        [structlog.processors.JSONRenderer()]
        if settings.log_format == "json"
        else [_printable, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        logger_factory=structlog.WriteLoggerFactory(LossyLogStream(sys.stderr)),  # type: ignore[arg-type] # it writes
        cache_logger_on_first_use=False,
    )
