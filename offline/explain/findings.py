"""Findings on each part of a forecast: equal, different, or expired."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from data.models.served import ServedModel
from data.stream.records import TRADES, with_time_texts
from data.trades import Trades
from offline.promotion.ledger import Entry
from offline.served.kept.records import Place

EQUAL, DIFFERENT, NOT_FOUND, EXPIRED = range(4)
"""Exit codes: all parts were made again and are equal; a part differs, or the record cannot be read; the forecast does
not exist, or the broker does not answer; a part of the inputs is gone."""
OUTCOMES = ("equal", "different", "not found", "expired")
"""Names of the exit codes."""

Outcome = Literal["equal", "different", "expired"]


class Finding(NamedTuple):
    """Result of checking one part of a forecast.

    Attributes:
        part: `model`, `promotion`, `trades`, `row`, `score`, `shadow` or `recording`.
        outcome: equal or different, after finding the part or making the part again; expired if the part is gone.
        said: the reason, in words.
    """

    part: str
    outcome: Outcome
    said: str


class RecordedRow(NamedTuple):
    """A trade in a recording.

    Attributes:
        file, line: place of the trade; lines count from 1, in a Parquet file rows count from 1.
        trade: one row, as recorded.
    """

    file: str
    line: int
    trade: Trades


class FoundModel(NamedTuple):
    """The model named by a forecast.

    Attributes:
        name: of the registered model.
        model: None if the file is gone.
        origin: URI or path of the file; empty if the file is gone.
        finding: on the part `model`.
    """

    name: str
    model: ServedModel | None
    origin: str
    finding: Finding


@dataclass
class Explanation:
    """Explanation of one forecast.

    Attributes:
        prediction: the forecast's record, see `prediction_type`.
        kafka_partition, kafka_offset: of the record on `predictions`; the record has the trade's own offset.
        model: the model named by the record.
        promotion: the ledger's entry under which the model served; None if there is no entry.
        trade: the forecast's trade on the topic, one row; None if the trade is gone or differs.
        window: the trades behind the row, in order; the last is the forecast's trade. None if trades are gone.
        recorded: the trade in the recording; None if not found.
        remade: the record's fields that were made again, by name.
        findings: one per part.
        forecast_from, trades_from: where the record, and the trades behind its row, were read; None if no trade was.
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
    forecast_from: Place = "topic"
    trades_from: Place | None = None

    @property
    def exit_code(self) -> int:
        outcomes = {finding.outcome for finding in self.findings}
        return DIFFERENT if "different" in outcomes else EXPIRED if "expired" in outcomes else EQUAL

    @property
    def trade_place(self) -> str:
        """Partition and offset of the forecast's trade, as text."""
        return f"{TRADES}[{self.prediction.kafka_partition}]@{self.prediction.kafka_offset}"

    def found(self, part: str, outcome: Outcome, said: str) -> None:
        """Add a finding on a part."""
        self.findings.append(Finding(part, outcome, said))

    def compare(self, part: str, remade: dict[str, Any], what: str) -> None:
        """Compare remade fields with the record's fields, by all digits (-0 is not 0), and add a finding.

        Args:
            remade: the fields made again, by name.
            what: words of the finding if all fields are equal.
        """
        self.remade |= remade
        recorded = {name: getattr(self.prediction, name) for name in remade}
        differing = [name for name in remade if repr(recorded[name]) != repr(remade[name])]
        if differing:
            one, other = with_time_texts(recorded), with_time_texts(remade)
            pairs = (f"{name} is {one[name]} in the record, made again {other[name]}" for name in differing)
            self.found(part, "different", "; ".join(pairs))
        else:
            self.found(part, "equal", what)
