"""Describe the state of the page in one sentence, and the remedy in another."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from data.times import second_text, to_datetime

State = Literal["live", "starting", "empty", "stale", "paused", "ended", "broken"]


class Said(NamedTuple):
    """State of the page.

    Attributes:
        what: the problem in one sentence.
        advice: the remedy in one sentence; empty if none is needed.
    """

    state: State
    what: str
    advice: str


def broken(broker: str | None, reader: str | None) -> Said | None:
    """Return the state if no forecast can come at all.

    Args:
        broker: the problem of the broker, as `address: reason` or as a sentence; None: no problem.
        reader: the problem of the reader of the topic; None: no problem.
    """
    if broker is not None:
        address, _, reason = broker.partition(": ")
        problem = f"The broker at {address} does not answer" if reason else broker
        return Said(
            "broken",
            f"{problem}, so no forecast can come in.",
            "Start the broker again (`make run` does): the page goes on by itself, and no trade is lost.",
        )
    if reader is None:
        return None
    if reader.startswith(("asking", "reading what")):
        return Said("starting", f"The API has just started and is {reader}.", "Forecasts follow in a moment.")
    return Said("broken", f"The API cannot read forecasts: {reader}.", "The log of the API says more.")


def empty(*, has_model: bool) -> Said:
    """Return the state if no forecast is known."""
    if not has_model:
        return Said(
            "empty",
            "There is no forecast yet, and no model serves yet.",
            "`make run` trains a first model; `python -m offline.training` does so alone.",
        )
    return Said(
        "empty",
        "There is no forecast yet: no trade has come in.",
        "Start a replay: `make run RECORDING=trades.csv`, or the job `replay` in Dagster.",
    )


def of_stream(stream: dict[str, Any], limit_s: float, written: bool | None, behind: int | None) -> Said:
    """Return the state of one stream.

    Args:
        stream: see `LiveView.summary`.
        limit_s: age of the newest forecast from which on an open stream is stale.
        written: whether an ingestor writes the source; None: not known.
        behind: trades that the forecaster has not read; None: not known.
    """
    product, source, age_s = stream["product_id"], stream["source_id"], stream["age_s"]
    last = second_text(to_datetime(int(stream["event_time"] * 1e6)))
    if stream["has_ended"]:
        what = f"The source {source} has ended; the last forecast of {product} is of {last}."
        return Said("ended", what, "Start another replay, or choose another source above.")
    if age_s <= limit_s:
        return Said("live", f"Forecasts of {product} come in.", "")
    if written is False:
        what = f"The replay {source} is paused: no ingestor has written to it for {duration(age_s)}."
        return Said("paused", what, f"Go on with `make run REPLAY_ID={source}` and the recording it was begun with.")
    waiting = f" {behind:,} trades wait for the forecaster." if behind else ""
    return Said(
        "stale",
        f"The newest forecast of {product} is {duration(age_s)} old, and its source has not ended.{waiting}",
        "See in the log of `make run` whether the forecaster runs." if behind else "See whether the ingestor runs.",
    )


def duration(seconds: float) -> str:
    """Return a time for people.

    >>> duration(42.4), duration(125), duration(7_300)
    ('42 s', '2 min', '2 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.0f} h"
