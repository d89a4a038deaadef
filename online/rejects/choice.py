"""Choose rejects."""

from __future__ import annotations

from dataclasses import dataclass

from online.rejects.kept import Kept
from online.rejects.readable import fields_of


@dataclass(frozen=True)
class Choice:
    """Conditions that all must hold; None: no condition.

    Attributes:
        ids: places on `trades-rejected`, or where the refused records stood.
        reason: part of the reason, in any case of letters.
        since_ms, until_ms: since <= time < until, ms since 1970.
        is_of_replay: whether a replay had sent the refused record.
    """

    ids: frozenset[str] | None = None
    reason: str | None = None
    product_id: str | None = None
    source_id: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    is_of_replay: bool | None = None

    def takes(self, kept: Kept) -> bool:
        """Return whether the conditions hold for a reject."""
        reject = kept.reject
        return (
            (self.ids is None or kept.id in self.ids or reject.where in self.ids)
            and (self.reason is None or self.reason.lower() in reject.reason.lower())
            and (self.product_id is None or self.product_id == product_of(kept))
            and (self.source_id is None or self.source_id == source_of(kept))
            and (self.since_ms is None or kept.time_ms >= self.since_ms)
            and (self.until_ms is None or kept.time_ms < self.until_ms)
            and (self.is_of_replay is None or kept.is_of_replay == self.is_of_replay)
        )


def source_of(kept: Kept) -> str | None:
    """Return the source of a reject: as the forecaster understood the record, or else as the record says."""
    return kept.reject.source_id or _text_in(kept, "source_id")


def product_of(kept: Kept) -> str | None:
    """Return the product of a reject, see `source_of`."""
    return kept.reject.product_id or _text_in(kept, "product_id")


def _text_in(kept: Kept, name: str) -> str | None:
    found = (fields_of(kept.reject.original) or {}).get(name)
    return found if isinstance(found, str) else None
