"""Count the rejects of recordings by kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from data.trades import Reject

REASONS_KEPT = 20
"""Kinds of rejects that are counted apart; a file of nonsense has any number of kinds."""
OTHER_REASONS = "other reasons"

WARN_SHARE = 0.01
"""A larger share of rejected rows is a warning at the end."""


@dataclass
class Reason:
    """A kind of rejects: their number, the first reject, and the last."""

    rows: int
    first: Reject
    last: Reject


class Tally:
    """Counts of taken trades and of rejects.

    Attributes:
        taken: number of taken trades.
        reasons: rejects by kind.
    """

    def __init__(self) -> None:
        self.taken = 0
        self.reasons: dict[str, Reason] = {}

    def add(self, taken: int, rejects: Iterable[Reject]) -> None:
        """Count the trades and rejects of a batch."""
        self.taken += taken
        for reject in rejects:
            kind = reject.kind
            if kind not in self.reasons and len(self.reasons) >= REASONS_KEPT:
                kind = OTHER_REASONS
            reason = self.reasons.setdefault(kind, Reason(0, reject, reject))
            reason.rows += reject.rows
            reason.last = reject

    @property
    def rejected(self) -> int:
        """Number of rejected rows."""
        return sum(reason.rows for reason in self.reasons.values())

    def commonest(self) -> str:
        """Return the number of rejects, the commonest reason and its first line in words."""
        if not self.reasons:
            return "0 rows are rejected"
        kind, reason = max(self.reasons.items(), key=lambda item: item[1].rows)
        first = reason.first
        of = f"{reason.rows:,} of them" if len(self.reasons) > 1 else "reason"
        return f"{self.rejected:,} rows are rejected, {of}: {kind}; first in {first.where}: {first.text}"

    def warning(self) -> str | None:
        """Return a warning if more than `WARN_SHARE` of the rows are rejected; None if not."""
        share = self.rejected / max(1, self.rejected + self.taken)
        return f"{share:.1%} of the rows are lost: {self.commonest()}" if share > WARN_SHARE else None
