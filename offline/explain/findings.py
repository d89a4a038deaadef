"""What is found of each part of a forecast: equal, different, or gone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from data.models.served import ServedModel
from data.stream.records import TRADES
from data.trades import Trades
from offline.promotion.ledger import Entry

EQUAL, DIFFERENT, NOT_FOUND, EXPIRED = range(4)
"""Exit codes: all was made again and is equal; something differs, or the record cannot be read; there is no such
forecast, or no broker to ask; a part of what it was made from is gone."""
OUTCOMES = ("equal", "different", "not found", "expired")
"""What each of them is called."""

Outcome = Literal["equal", "different", "expired"]


class Finding(NamedTuple):
    """What became of one part of an explanation.

    Attributes:
        part: `model`, `promotion`, `trades`, `row`, `score` or `recording`.
        outcome: found or made again, and equal, or not; or gone.
        said: in words.
    """

    part: str
    outcome: Outcome
    said: str


class RecordedRow(NamedTuple):
    """A trade as a recording has it.

    Attributes:
        file, line: where; the line counts from 1, in a Parquet file it is the row.
        event_time: ns since 1970.
        side: see `Side`.
    """

    file: str
    line: int
    event_time: int
    price: float
    size: float
    side: int


class FoundModel(NamedTuple):
    """The model that a forecast names.

    Attributes:
        name: of the registered model.
        model: None where it is gone.
        origin: where its file was found; empty where it is gone.
        finding: what became of it.
    """

    name: str
    model: ServedModel | None
    origin: str
    finding: Finding


@dataclass
class Explanation:
    """All that is known of a forecast.

    Attributes:
        prediction: the record, see `prediction_type`.
        kafka_partition, kafka_offset: where it stands on `predictions`; its trade's place is in the record.
        model: that it names.
        trade: its own as the topic has it, one row; None where it is gone or another one.
        window: the trades that the row was made from, in order, the last one its own; None where they are gone.
        recorded: its trade in the recording; None where it is not found.
        remade: of the record's fields, those that were made again.
        promotion: the entry of the ledger under which the model served then; None where there is none.
        findings: of each part.
    """

    prediction: Any
    kafka_partition: int
    kafka_offset: int
    model: FoundModel
    promotion: Entry | None = None
    trade: Trades | None = None
    window: Trades | None = None
    recorded: RecordedRow | None = None
    remade: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        outcomes = {finding.outcome for finding in self.findings}
        return DIFFERENT if "different" in outcomes else EXPIRED if "expired" in outcomes else EQUAL

    @property
    def trade_place(self) -> str:
        """Of its trade on the topic."""
        return f"{TRADES}[{self.prediction.kafka_partition}]@{self.prediction.kafka_offset}"

    def found(self, part: str, outcome: Outcome, said: str) -> None:
        """Note what became of a part."""
        self.findings.append(Finding(part, outcome, said))

    def compare(self, part: str, remade: dict[str, Any], what: str) -> None:
        """Compare fields of the record with those that were made again: by all digits, -0 is not 0."""
        self.remade |= remade
        recorded = {name: getattr(self.prediction, name) for name in remade}
        differing = [name for name in remade if repr(recorded[name]) != repr(remade[name])]
        if differing:
            pairs = (f"{name} is {recorded[name]} in the record, made again {remade[name]}" for name in differing)
            self.found(part, "different", "; ".join(pairs))
        else:
            self.found(part, "equal", what)
