"""Search for the line of a recording behind a trade."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from data.names import Damaged
from data.recordings.dialects.base import Dialect
from data.recordings.dialects.column_map import ColumnMap
from data.recordings.lines import chunks_of, head_of, whole_lines
from data.recordings.readers import Batch, read_trades
from data.recordings.recognition import recognize
from data.stream.origin import Origin, read_origin, recording_of
from data.times import NS, time_text
from data.trades import Side, Trades
from offline.explain.findings import Explanation, Finding, RecordedRow

FEW = 3
"""Up to this number of trades, lines are searched one by one; for more trades, the recordings are read once."""
MOST_LINES = 5_000
"""Maximum number of lines to check that contain the digits of a trade id: a short id is in every line."""


def find_in_recordings(explanations: Sequence[Explanation], product_id: str, note: str) -> None:
    """Look for trades in the recordings of their source, and compare them with the topic.

    Args:
        note: the ingestor's note on the recordings, see `Origin`.
    """
    try:
        origin = read_origin(note)
    except ValueError as error:
        unreadable = f"the broker's note on the source's recordings cannot be read: {error}"
        said = unreadable if note else "the broker has no note on the source's recordings"
        for each in explanations:
            each.found("recording", "expired", said)
        return
    paths, problem = _whole_recordings(origin)
    is_quick = len(explanations) <= FEW
    rest = [each for each in explanations if not (is_quick and _find_line(each, paths, product_id, origin))]
    found, damage = _read_recordings(paths, origin, product_id, {each.prediction.trade_id for each in rest})
    for each in rest:
        recorded = each.recorded = found.get(each.prediction.trade_id)
        if recorded is None:
            files = ", ".join(recording.path for recording in origin.recordings)
            reason = problem or damage
            each.found("recording", "expired" if reason else "different", reason or f"{files}: no such trade")
        elif each.trade is None:
            where = f"{recorded.file}:{recorded.line}"
            each.found("recording", "expired", f"{where}, but the topic has no trade to compare it with")
        else:
            each.findings.append(compare_recorded(recorded, each.trade, origin))


def compare_recorded(recorded: RecordedRow, trade: Trades, origin: Origin) -> Finding:
    """Compare a recorded trade with the one on the topic; a real-time replay has moved its time by whole seconds."""
    where = f"{recorded.file}:{recorded.line}"
    shift_ns = int(trade.event_time[0] - recorded.trade.event_time[0])
    there, here = (
        {"price": float(each.price[0]), "size": float(each.size[0]), "side": Side(each.side[0]).name}
        | ({"event_time": time_text(each.event_time[0])} if origin.speed != "real-time" or shift_ns % NS else {})
        for each in (recorded.trade, trade)
    )
    differing = [
        f"{name} is {there[name]} recorded, {here[name]} on the topic"
        for name in there
        if repr(there[name]) != repr(here[name])
    ]
    if differing:
        return Finding("recording", "different", f"{where}: {'; '.join(differing)}")
    moved = f", its time moved by {shift_ns // NS:+,} s (a real-time replay)" if shift_ns else ""
    return Finding("recording", "equal", where + moved)


def _whole_recordings(origin: Origin) -> tuple[list[Path], str]:
    """Return the recordings before the first missing or changed one, and why trades may be missing, or ""."""
    paths: list[Path] = []
    for recording in origin.recordings:
        path = Path(recording.path)
        now = recording_of(path)
        if recording.size is None or now != recording:
            return paths, f"{path} {'is gone' if now.size is None else 'has changed since it was replayed'}"
        paths.append(path)
    if origin.left_out:
        return paths, f"of the source's recordings only the first {len(paths)} are known, {origin.left_out} are not"
    return paths, ""


def _find_line(each: Explanation, paths: Sequence[Path], product_id: str, origin: Origin) -> bool:
    """Search for a line with a trade's id and equal to the trade on the topic; return False if there is no equal line.

    Lines without the id are not parsed. A later equal line does not matter: the source rejected the later line.
    """
    if each.trade is None:
        return False
    trade_id = each.prediction.trade_id
    key = product_id, trade_id
    is_number = re.compile(rf"(?<![\w.+-]){trade_id}(?![\w.+-])".encode())
    with suppress(ValueError, OSError, Damaged):
        for path in paths:
            if not (isinstance(dialect := _dialect(path, origin), Dialect) and dialect.has_ids):
                return False
            header = head_of(chunks_of(path)).partition(b"\n")[0] + b"\n"
            for number, line in islice(_lines_with(path, str(trade_id).encode()), MOST_LINES):
                recording = line if line.startswith(b"{") else header + line
                if is_number.search(line) and (found := _parsed_alone(path.name, recording, origin, key)):
                    recorded = found._replace(file=str(path), line=number)
                    finding = compare_recorded(recorded, each.trade, origin)
                    if finding.outcome == "equal":
                        each.recorded = recorded
                        each.findings.append(finding)
                        return True
    return False


def _dialect(path: Path, origin: Origin) -> object:
    return recognize(path, origin.product_id, ColumnMap.parse(origin.columns))


def _read(paths: Path | Sequence[Path], origin: Origin) -> Iterator[Batch]:
    """Read recordings as the source was read."""
    return read_trades(paths, product_id=origin.product_id, columns=ColumnMap.parse(origin.columns))


def _parsed_alone(name: str, recording: bytes, origin: Origin, key: tuple[str, int]) -> RecordedRow | None:
    """Return a trade from a recording's text of one line, or None if the line is another trade.

    Args:
        name: of the recording's file, which may tell the product.
        key: product and id of the trade.
    """
    product_id, trade_id = key
    with TemporaryDirectory() as folder, suppress(ValueError):
        path = Path(folder) / name
        path.write_bytes(recording)
        return dict(_recorded(_read(path, origin), product_id, {trade_id})).get(trade_id)
    return None


def _lines_with(path: Path, digits: bytes) -> Iterator[tuple[int, bytes]]:
    """Read the lines of a text that contain some digits, with line numbers from 1.

    Raises:
        Damaged: see `chunks_of`.
    """
    number = 1
    for block in whole_lines(chunks_of(path)):
        if digits in block:
            lines = enumerate(block.split(b"\n"), number)
            yield from ((i, line + b"\n") for i, line in lines if digits in line)
        number += block.count(b"\n")


def _read_recordings(
    paths: Sequence[Path], origin: Origin, product_id: str, trade_ids: Collection[int]
) -> tuple[dict[int, RecordedRow], str]:
    """Return recorded trades by trade id, and the fault of a damaged recording, or ""."""
    found: dict[int, RecordedRow] = {}
    try:
        batches = _read(paths, origin) if paths and trade_ids else ()
        found.update(_recorded(batches, product_id, trade_ids))
    except ValueError as error:  # a recording is damaged, and was damaged when replayed
        return found, str(error)
    return found, ""


def _recorded(
    batches: Iterable[Batch], product_id: str, trade_ids: Collection[int]
) -> Iterator[tuple[int, RecordedRow]]:
    """Yield recorded trades of a product with their ids, until all wanted trades are found."""
    wanted, left = np.array(sorted(trade_ids), np.int64), len(trade_ids)
    for batch in batches:
        for row in np.flatnonzero(np.isin(batch.trades.trade_id, wanted)).tolist():
            trade = batch.trades.take(slice(row, row + 1))
            if trade.keys[trade.stream[0]].product_id == product_id:
                left -= 1
                yield int(trade.trade_id[0]), RecordedRow(batch.file, int(batch.line[row]), trade)
        if not left:
            return
