"""Read recordings of trades and bars as columns, and write trades. The content of a file decides its dialect."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import structlog
from numpy.typing import NDArray

from data.arrow import Mask, texts_of
from data.features.admission import REASONS, TAKEN
from data.features.strays import LookAhead, judged
from data.files import replacing
from data.names import PRODUCT_ID, BeyondLimit, Damaged, check_product_id
from data.recordings.dialects.bars.base import BarBatch, BarDialect
from data.recordings.dialects.base import OWN_COLUMNS, Block, Dialect, RowColumns
from data.recordings.dialects.column_map import ColumnMap
from data.recordings.dialects.file_names import DEFAULT_PRODUCT
from data.recordings.fields import Products, products, value_text
from data.recordings.limits import RecordingLimits
from data.recordings.lines import Fault, Lines, Meter, cut_rows
from data.recordings.recognition import recognize
from data.recordings.tally import OTHER_REASONS, Tally
from data.trades import Int64s, Reject, Side, StreamKey, Trades, kind_of

log = structlog.get_logger()

KINDS_TOLD = 5
"""Types of skipped messages that an error names."""
TEXTS_KEPT = 10_000
"""Rejects of a recording with a text; of later rejects, lines and reasons are kept, together for a block of rows."""
HEAD_ROWS = 1_000
"""Rows of a recording that tell whether its newest row comes first."""
KINDS_KEPT = 20
"""Kinds of rejects of a block that are kept apart after `TEXTS_KEPT` rejects."""


class Batch(NamedTuple):
    """Consecutive lines of one recording.

    Attributes:
        trades: the accepted trades; `keys` have an empty source_id, because the caller names the source.
        file: the recording.
        line: shape (n,), 1-based line of each trade in `file`, or row in a file without lines (Parquet).
        rejects: rows that are no trade, or that the source does not take; by line.
        skipped: number of lines with messages of another kind, for example `subscriptions`.
        share: of the bytes of all recordings, the share up to the last line, 0 to 1; within a block of lines, bytes
            are counted by lines.
        skipped_types: number of skipped lines by type of message; the first batch of a block has those of the block.
        read_types: number of lines with trades or rejects by type of message, in the same way.
        has_ids: the recording has trade ids; else its rows are numbered.
    """

    trades: Trades
    file: str
    line: Int64s
    rejects: list[Reject]
    skipped: int
    share: float
    skipped_types: Mapping[str, int] = {}
    has_ids: bool = True
    read_types: Mapping[str, int] = {}


def read_trades(
    paths: Path | Sequence[Path],
    *,
    product_id: str = DEFAULT_PRODUCT,
    batch_rows: int = 65_536,
    columns: ColumnMap | None = None,
) -> Iterator[Batch]:
    """Read one source: one pass over an ordered list of recordings, each of any dialect, texts plain or with gzip.

    Rows that are no trades are rejected and never stop the reading. Ids that do not rise and times that fall are
    judged over the whole source. Memory does not depend on the length of the recordings.

    Args:
        paths: one recording or several; they are read in the order of their first times, and a recording with the
            newest row first from its end.
        product_id: product of trades in recordings without product names.
        batch_rows: the most lines of one batch; small batches cost little.
        columns: names of columns that no dialect knows.

    Raises:
        ValueError: at once, if a file is no recording of trades, or if only some recordings have trade ids; while
            reading, if a file holds no row or is damaged: all whole rows before the damage are delivered.
    """
    check_product_id(product_id)
    recordings = _recognized(paths, batch_rows, product_id, columns, are_bars=False)
    for (path, dialect), (other_path, other) in pairwise(recordings):
        if dialect.has_ids != other.has_ids:
            with_ids, without = (path, other_path) if dialect.has_ids else (other_path, path)
            raise ValueError(
                f"{with_ids} has trade ids and {without} has none: trades of one source are ordered by one or the "
                "other; read them as two sources"
            )
    return _read_trades(_in_order(recordings, product_id), product_id, batch_rows)


class _Ordered(NamedTuple):
    """A recording with the order of its rows.

    Attributes:
        is_newest_first: the recording is read from its last row to its first.
        first_ns: time of the oldest trade, ns since 1970; None without a trade at the begin of the recording.
    """

    path: Path
    dialect: Dialect[Any]
    is_newest_first: bool
    first_ns: int | None


def _in_order(recordings: Sequence[tuple[Path, Dialect[Any]]], product_id: str) -> list[_Ordered]:
    """Return the recordings in the order of their first times, and log an order that is not as given."""
    looked = [_look(path, dialect, product_id) for path, dialect in recordings]
    if turned := [str(each.path) for each in looked if each.is_newest_first]:
        log.info("newest row first: read from the last row on", recordings=turned)
    if len(looked) == 1 or any(each.first_ns is None for each in looked):
        return looked
    ordered = sorted(looked, key=lambda each: each.first_ns or 0)
    if ordered != looked:
        log.info("recordings are read in the order of their first times", recordings=[str(o.path) for o in ordered])
    return ordered


def is_newest_first(path: Path, dialect: Dialect[Any], product_id: str) -> bool:
    """Return whether times, and ids where a recording has ids, fall from row to row at the begin of a recording."""
    return _look(path, dialect, product_id).is_newest_first


def _look(path: Path, dialect: Dialect[Any], product_id: str) -> _Ordered:
    head = _head(dialect.head(path), dialect, product_id)
    if head is None:
        return _Ordered(path, dialect, False, None)
    order = np.argsort(head.stream, kind="stable")
    same = np.diff(head.stream[order]) == 0
    falls = [_falls(head.event_time[order], same), *([_falls(head.trade_id[order], same)] if dialect.has_ids else [])]
    if not all(falls):
        taken = head.take(judged(head) == TAKEN)
        _, first = np.unique(taken.stream, return_index=True)
        return _Ordered(path, dialect, False, int(taken.event_time[first].min()))
    oldest = _head(dialect.backwards(path, Meter()), dialect, product_id)
    return _Ordered(path, dialect, True, None if oldest is None else int(oldest.event_time[0]))


def _falls(values: Int64s, same: Mask) -> bool:
    """Return whether values of a stream fall clearly: at least twice, and four times as often as they rise."""
    steps = np.diff(values)[same]
    return int(np.sum(steps < 0)) >= max(2, 4 * int(np.sum(steps > 0)))


def _head(blocks: Iterator[Block], dialect: Dialect[Any], product_id: str) -> Trades | None:
    """Return the trades of the first rows, or None without a trade; a damage is told when the recording is read."""
    with suppress(Damaged):
        if (block := next(blocks, None)) is not None:
            if isinstance(block, Lines):
                block = block.cut(0, min(len(block), HEAD_ROWS))
            found = _parse(block, dialect, product_id)
            trades = _trades(found, np.flatnonzero(found.ok), 1)
            return trades if len(trades) else None
    return None


def read_bars(
    paths: Path | Sequence[Path], *, product_id: str = DEFAULT_PRODUCT, batch_rows: int = 65_536
) -> Iterator[BarBatch]:
    """Read bars of one length from an ordered list of recordings, oldest first.

    Rows that are no bars, rows that contradict themselves, and rows whose time does not rise are rejected and never
    stop the reading. Missing bars are not filled in.

    Args:
        paths: one recording or several, in the order of their bars.
        product_id: product of bars in recordings without product names.
        batch_rows: the most lines of one batch.

    Raises:
        ValueError: at once, if a file is no recording of bars, or if bars differ in length; while reading, if a file is
            damaged: all whole rows before the damage are delivered; at the end, if no row is a bar.
    """
    check_product_id(product_id)
    recordings = _recognized(paths, batch_rows, product_id, are_bars=True)
    for (path, one), (other_path, other) in pairwise(recordings):
        if one.step_s != other.step_s:
            raise ValueError(
                f"{path} has bars of {one.step_s} s and {other_path} of {other.step_s} s: read them as two sources"
            )
    return _read_bars(recordings, batch_rows)


def _recognized(
    paths: Path | Sequence[Path],
    batch_rows: int,
    product_id: str,
    columns: ColumnMap | None = None,
    *,
    are_bars: bool,
) -> list[tuple[Path, Any]]:
    """Return the recordings of one source with their dialects: all of bars, or all of trades."""
    paths = [paths] if isinstance(paths, Path) else paths
    if not paths:
        raise ValueError("a source needs at least 1 recording, got 0")
    if batch_rows < 1:
        raise ValueError(f"batch_rows must be at least 1, was {batch_rows}")
    recordings = []
    for path in paths:
        dialect = recognize(path, product_id, columns)
        if isinstance(dialect, BarDialect) != are_bars:
            held, wanted = ("trades", "bars") if are_bars else ("bars", "trades")
            how = "data.recordings.readers.read_trades reads it"
            if not are_bars:
                how = "it cannot be replayed; `python -m offline.evaluation` and read_bars read it"
            raise ValueError(f"{path}: holds {held}, not {wanted} ({dialect.name}): {how}")
        if dialect.unread:
            log.info("columns that no dialect knows are not read", recording=str(path), columns=list(dialect.unread))
        recordings.append((path, dialect))
    return recordings


def _damaged(path: Path, damage: Damaged, rows: int) -> ValueError:
    if isinstance(damage, BeyondLimit):
        return ValueError(f"{path}: {damage}; {rows:,} whole rows before were read")
    keep = f", or keep its readable part: {damage.rescue} {path.name} > part.csv" if damage.rescue else ""
    return ValueError(
        f"{path}: {damage} after {rows:,} whole rows, which were read; copy or download the file again{keep}"
    )


class _Waiting(NamedTuple):
    """A block of a recording whose trades wait for their judgement.

    Attributes:
        kept: shape (n,), index of the row of each of `trades`.
        trades: the rows that are trades, taken by their stream or not.
        shares: see `Batch.share`, before and after the block.
    """

    path: Path
    dialect: Dialect[Any]
    block: Block
    found: _Parsed
    kept: NDArray[np.intp]
    trades: Trades
    shares: tuple[float, float]


def _read_trades(recordings: Sequence[_Ordered], product_id: str, batch_rows: int) -> Iterator[Batch]:
    """Read the recordings of a source, and judge the trades of each block when enough trades after them are known."""
    look, waiting, tally = LookAhead(), deque[_Waiting](), Tally()
    details = dict.fromkeys((each.path for each in recordings), TEXTS_KEPT)

    def batches(is_over: bool) -> Iterator[Batch]:
        while waiting and (is_over or len(waiting[0].trades) <= look.settled):
            block = waiting.popleft()
            for batch in _batches(block, look.take(len(block.trades)), details, batch_rows):
                tally.add(len(batch.trades), batch.rejects)
                yield batch

    limits, named = RecordingLimits.here(), set[str]()
    position = 1  # of the next row in the source: the row's trade id if recordings have no ids
    sizes = [each.path.stat().st_size for each in recordings]
    share = 0.0
    error: ValueError | None = None
    for nth, (path, dialect, is_turned, _) in enumerate(recordings):
        lines = skipped = 0
        types = Counter[str]()
        meter = Meter()
        try:
            for block in dialect.backwards(path, meter) if is_turned else dialect.blocks(path, meter):
                found = _parse(block, dialect, product_id)
                named.update(filter(PRODUCT_ID.fullmatch, found.products.names))
                limits.check_products(len(named))
                kept = np.flatnonzero(found.ok)
                trades = _trades(found, kept, position)
                shares = share, min(1.0, (sum(sizes[:nth]) + meter.read) / sum(sizes))
                rows = found.rows
                at = rows.position if len(kept) == len(rows.position) else rows.position[kept]
                look.add(trades, position + at, position + rows.positions)
                waiting.append(_Waiting(path, dialect, block, found, kept, trades, shares))
                yield from batches(is_over=False)
                share = shares[1]
                position += rows.positions
                lines += len(block.number)
                skipped += len(rows.skipped)
                types.update(rows.skipped_types)
        except Damaged as damage:
            error = _damaged(path, damage, lines)
            error.__cause__ = damage
            break
        if lines == skipped:
            held = f"only {skipped:,} messages of other kinds{_kinds(types)}" if skipped else "no row"
            error = ValueError(f"{path}: holds no trades, {held} ({dialect.name})")
            break
    yield from batches(is_over=True)
    if error is not None:
        raise error
    if not tally.taken:
        raise ValueError(f"{', '.join(str(each.path) for each in recordings)}: no row is a trade: {tally.commonest()}")


def _kinds(types: Counter[str]) -> str:
    """Return the commonest types of skipped messages in words."""
    named = ", ".join(f"{count:,} {kind}" for kind, count in types.most_common(KINDS_TOLD) if kind)
    return f": {named}" if named else ""


class _Parsed(NamedTuple):
    """The rows of a block as values.

    Attributes:
        values: by field of a trade, shape (m,); without the fields that the recording lacks.
        good: by field of a trade, shape (m,): True if the value is allowed.
    """

    rows: RowColumns
    products: Products
    values: dict[str, Any]
    good: dict[str, Mask]

    @property
    def is_good(self) -> bool:
        return all(bool(good.all()) for good in (self.products.good, *self.good.values()))

    @property
    def ok(self) -> Mask:
        """Return a mask of the rows whose values are all allowed, shape (m,)."""
        ok = self.products.good.copy()
        for good in self.good.values():
            ok &= good
        return ok


def _parse(block: Block, dialect: Dialect[Any], product_id: str) -> _Parsed:
    if (typed := dialect.typed_rows(block)) is not None:
        parsed = _parse_rows(typed, dialect, product_id)
        if parsed.is_good:
            return parsed
    return _parse_rows(dialect.rows(block), dialect, product_id)


def _parse_rows(rows: RowColumns, dialect: Dialect[Any], product_id: str) -> _Parsed:
    n = len(rows.at)
    if "product_id" in rows.columns:
        named = products(rows.columns["product_id"])
    else:
        named = Products([product_id], np.zeros(n, np.int32), np.ones(n, np.bool_))
    parsed = _Parsed(rows, named, {}, {})
    for name, field in dialect.fields.items():
        if name in rows.columns:
            parsed.values[name], parsed.good[name] = field.parse(rows.columns[name])
    return parsed


def _batches(waiting: _Waiting, status: NDArray[np.int8], details: dict[Path, int], batch_rows: int) -> Iterator[Batch]:
    """Yield the judged rows of a block in batches of `batch_rows` lines.

    Args:
        status: shape (n,), of each trade, see `LookAhead.take`.
        details: by recording, the number of rejects that are still told one by one. Changed in place.
    """
    block, rows, kept, trades = waiting.block, waiting.found.rows, waiting.kept, waiting.trades
    faults = _faults(waiting, status, details)
    if (status != TAKEN).any():
        kept, trades = kept[status == TAKEN], trades.take(status == TAKEN)
    at = rows.at if len(kept) == len(rows.at) else rows.at[kept]
    line = block.number if at is block.number else block.number[at]
    before, after = waiting.shares
    file = str(waiting.path)
    for span, part, rejects in cut_rows(file, block.number, block.text, at, faults, batch_rows):
        begin, end = np.searchsorted(rows.skipped, span).tolist()
        read = min(1.0, span[1] / len(block.number))
        share = before + (after - before) * read
        skipped_types, read_types = (rows.skipped_types, rows.read_types) if span[0] == 0 else ({}, {})
        yield Batch(
            trades.take(part),
            file,
            line[part],
            rejects,
            end - begin,
            share,
            skipped_types,
            waiting.dialect.has_ids,
            read_types,
        )


_BROKEN, _NO_VALUE = -1, 100  # codes of faults; a fault of a value has `_NO_VALUE` and the index of the field


def _faults(waiting: _Waiting, status: NDArray[np.int8], details: dict[Path, int]) -> list[Fault]:
    """Return why rows of a block are rejected, sorted; one by one as long as `details` lasts, then by reason."""
    found, rows = waiting.found, waiting.found.rows
    if len(waiting.kept) == len(rows.at) and not rows.broken and (status == TAKEN).all():
        return []
    broken = np.array(sorted(rows.broken), np.intp)
    masks = [found.products.good, *found.good.values()]
    bad = np.delete(np.arange(len(rows.at)), waiting.kept)
    first_bad = np.argmin([mask[bad] for mask in masks], axis=0) if len(bad) else bad
    refused = waiting.kept[status != TAKEN]
    row = np.concatenate([np.full(len(broken), -1), bad, refused])
    at = np.concatenate([broken, rows.at[bad], rows.at[refused]])
    code = np.concatenate([np.full(len(broken), _BROKEN), _NO_VALUE + first_bad, status[status != TAKEN]])
    order = np.lexsort((row, at))

    def reason(i: int) -> str:
        if code[i] == _BROKEN:
            return rows.broken[int(at[i])]
        if code[i] < _NO_VALUE:
            return REASONS[int(code[i])]
        return _reason(found, waiting.dialect, int(code[i]) - _NO_VALUE, int(row[i]))

    one_by_one = order[: details[waiting.path]]
    details[waiting.path] -= len(one_by_one)
    faults = [Fault(int(at[i]), int(row[i]), reason(i)) for i in one_by_one.tolist()]
    if len(rest := order[len(one_by_one) :]):
        faults += _by_kind(rest, at, code, reason)
    return sorted(faults)


def _by_kind(
    rest: NDArray[np.intp], at: NDArray[np.intp], code: NDArray[np.intp], reason: Callable[[int], str]
) -> list[Fault]:
    """Return the faults `rest`, in order of their lines, as one fault for each kind."""
    by_kind: dict[str, list[NDArray[np.intp]]] = {}
    for one in np.unique(code[rest]):
        mine = rest[code[rest] == one]
        if one == _BROKEN:  # each line has a reason of its own
            kinds = [kind_of(reason(i)) for i in mine.tolist()]
            names, which = np.unique(kinds, return_inverse=True)
            for k, name in enumerate(names.tolist()):
                kind = name if len(by_kind) < KINDS_KEPT else OTHER_REASONS
                by_kind.setdefault(kind, []).append(mine[which == k])
        else:
            by_kind.setdefault(kind_of(reason(int(mine[0]))), []).append(mine)
    found = []
    for kind, parts in by_kind.items():
        lines = at[np.concatenate(parts)]
        found.append(Fault(int(lines.min()), -1, kind, int(lines.max()), len(lines)))
    return found


def _reason(found: _Parsed, dialect: Dialect[Any], field: int, row: int) -> str:
    """Return the reason why a row is no trade; `field` is 0 for the product, else 1 + the index of the field."""
    name = "product_id" if field == 0 else list(found.good)[field - 1]
    text = value_text(found.rows.columns[name], row)
    allowed = dialect.product_rule if name == "product_id" else dialect.fields[name].explain(text)
    return f"{dialect.columns[name]} {allowed}, was {text!r}"


def _trades(found: _Parsed, kept: NDArray[np.intp], position: int) -> Trades:
    """Return the chosen rows as trades."""
    rows, values = found.rows, dict(found.values)
    n = len(rows.at)
    values.setdefault("trade_id", position + rows.position)
    values.setdefault("size", np.full(n, np.nan))
    values.setdefault("side", np.full(n, Side.UNKNOWN, np.int8))
    code, names = found.products.code, found.products.names
    if len(kept) < n:
        code = code[kept]
        values = {name: column[kept] for name, column in values.items()}
    occurs = np.bincount(code, minlength=len(names)) > 0
    if not occurs.all():
        code = (np.cumsum(occurs) - 1)[code]
    keys = tuple(StreamKey("", name) for name, used in zip(names, occurs, strict=True) if used)
    return Trades(keys, code.astype(np.int32, copy=False), ingest_time=np.zeros(len(kept), np.int64), **values)


def _read_bars(recordings: Sequence[tuple[Path, BarDialect]], batch_rows: int) -> Iterator[BarBatch]:
    last: dict[str, int] = {}
    tally, limits = Tally(), RecordingLimits.here()
    for path, dialect in recordings:
        rows = 0
        try:
            for lines in dialect.lines():
                for batch in dialect.batches(lines, last, batch_rows):
                    limits.check_products(len(last))
                    tally.add(len(batch.bars), batch.rejects)
                    yield batch
                rows += len(lines)
        except Damaged as damage:
            raise _damaged(path, damage, rows) from damage
    if not tally.taken:
        raise ValueError(f"{', '.join(str(path) for path, _ in recordings)}: no row is a bar: {tally.commonest()}")


_SIDE_TEXTS = texts_of(["sell", "", "buy"])  # at Side - Side.SELL


def write_csv(path: Path, batches: Iterable[Trades]) -> None:
    """Write trades as the project's own CSV; `read_trades` reads the same values.

    The file appears whole or not at all, and is compressed if the name ends in `.gz`. Equal trades give equal bytes.
    Unknown sizes and sides, and ingest times of 0, are written as empty texts.
    """
    with replacing(path) as file:
        file.write(",".join(OWN_COLUMNS).encode() + b"\n")
        options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
        for trades in batches:
            pyarrow.csv.write_csv(_own_table(trades), file, options)


def _own_table(trades: Trades) -> pa.Table:
    stream = pa.array(trades.stream)

    def times(ns: Int64s) -> pa.Array:
        texts = pa.array(ns, mask=ns == 0).cast(pa.timestamp("ns", "UTC")).cast(pa.string())
        return pc.fill_null(pc.replace_substring(texts, " ", "T"), "")

    columns = (
        texts_of([key.source_id for key in trades.keys]).take(stream),
        texts_of([key.product_id for key in trades.keys]).take(stream),
        pa.array(trades.trade_id),
        times(trades.event_time),
        times(trades.ingest_time),
        pa.array(trades.price),
        pa.array(trades.size, from_pandas=True),
        _SIDE_TEXTS.take(pa.array(trades.side - Side.SELL)),
    )
    return pa.table(dict(zip(OWN_COLUMNS, columns, strict=True)))
