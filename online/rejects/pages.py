"""Write the list of rejects, and the page of one reject."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from data.names import printable
from data.stream.records import REJECTED
from data.times import time_text
from data.trades import kind_of
from online.rejects.choice import product_of, source_of
from online.rejects.kept import Kept
from online.rejects.readable import fields_of, readable, shortened

KINDS = 50
"""Most reasons that are counted apart: bytes of nonsense have any number of reasons."""
OTHERS = "other reasons"

_PLACE_IN_TEXT = re.compile(r" \((?:byte \d+|at byte.*?)\)")

_WIDTHS = (24, 10, 12, 30, 26)


@dataclass
class Counts:
    """Counts of rejects.

    Attributes:
        reasons: by reason, without the rejected values.
        replayed: how many of them were replayed.
        newest: the newest rejects, the newest first.
    """

    reasons: Counter[str] = field(default_factory=Counter)
    replayed: int = 0
    newest: list[Kept] = field(default_factory=list)


def count(rejects: Iterable[Kept], most: int) -> Counts:
    """Count rejects, and keep the newest `most`."""
    counts = Counts()

    def counted() -> Iterator[Kept]:
        for kept in rejects:
            reason = _PLACE_IN_TEXT.sub("", kind_of(kept.reject.reason))
            is_known = reason in counts.reasons or len(counts.reasons) < KINDS
            counts.reasons[reason if is_known else OTHERS] += 1
            counts.replayed += kept.replayed_as is not None
            yield kept

    counts.newest = heapq.nlargest(most, counted(), key=lambda kept: (kept.time_ms, kept.partition, kept.offset))
    return counts


def list_page(counts: Counts, unreadable: int) -> Iterator[str]:
    """Yield the lines of the list."""
    total = counts.reasons.total()
    yield f"{total:,} rejects on {REJECTED}, {counts.replayed:,} of them replayed"
    if unreadable:
        yield f"{unreadable:,} further records of {REJECTED} are no rejects, and are left out"
    if not total:
        return
    yield ""
    yield f"{'count':>9}  reason"
    for reason, rows in counts.reasons.most_common():
        yield f"{rows:>9,}  {shortened(reason, 100)}"
    yield ""
    yield _row(("time", "id", "product", "source", "refused at"), "reason")
    for kept in counts.newest:
        names = product_of(kept) or "-", source_of(kept) or "-"
        reason = kept.reject.reason if kept.replayed_as is None else f"replayed; {kept.reject.reason}"
        yield _row((_time(kept)[:23] + "Z", kept.id, *names, kept.reject.where), reason)
    if total > len(counts.newest):
        yield f"... the newest {len(counts.newest):,} of {total:,}; --newest shows more"


def _row(cells: Iterable[str], reason: str) -> str:
    columns = (f"{shortened(cell, width):<{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))
    return "  ".join((*columns, shortened(reason, 100)))


def list_document(counts: Counts, unreadable: int) -> dict[str, Any]:
    """Return the list for programs; `replay --repaired` reads the same document."""
    return {
        "total": counts.reasons.total(),
        "replayed": counts.replayed,
        "unreadable": unreadable,
        "reasons": dict(counts.reasons.most_common()),
        "rejects": [_entry(kept) for kept in counts.newest],
    }


def _entry(kept: Kept) -> dict[str, Any]:
    reject = kept.reject
    return {
        "id": kept.id,
        "time": _time(kept),
        "stage": reject.stage,
        "where": reject.where,
        "reason": reject.reason,
        "source_id": source_of(kept),
        "product_id": product_of(kept),
        "replayed_as": kept.replayed_as,
        "trade": fields_of(reject.original),
        "text": reject.text,
    }


def reject_page(kept: Kept) -> Iterator[str]:
    """Yield the lines about one reject."""
    reject = kept.reject
    facts = {
        "id": f"{kept.id} on {REJECTED}",
        "time": _time(kept),
        "refused by": reject.stage,
        "refused at": reject.where,
        "reason": reject.reason,
        "source": source_of(kept) or "-",
        "product": product_of(kept) or "-",
        "replayed": "no" if kept.replayed_as is None else f"as {kept.replayed_as}",
    }
    for name, value in facts.items():
        yield f"{name:<11} {printable(value)}"
    if reject.original is None:
        yield "text        " + printable(reject.text)
        yield "            (the bytes are where the row was refused; rejects of an earlier release kept none)"
        return
    size = f"{len(reject.original):,} bytes" + (", or the first of more" if kept.is_cut else "")
    yield f"record      {size}"
    yield from readable(reject.original)


def _time(kept: Kept) -> str:
    return time_text(kept.time_ms * 1_000_000)


def as_json(document: dict[str, Any]) -> str:
    """Return a document as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(document)).decode()
