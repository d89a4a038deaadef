"""Contract features of one product, a price at a time, as written by a user of a stream library."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunningWindow:
    """Sums over the last `size` log returns: the cheapest way, without care for the last digits."""

    size: int = 50
    price: float | None = None
    returns: list[float] = field(default_factory=list)
    total: float = 0.0
    squares: float = 0.0

    def add(self, price: float) -> dict[str, Any]:
        """Add a price, and return n, ret_mean and ret_std."""
        if self.price is not None:
            log_return = math.log1p((price - self.price) / self.price)
            self.returns.append(log_return)
            self.total += log_return
            self.squares += log_return * log_return
            if len(self.returns) > self.size:
                gone = self.returns.pop(0)
                self.total -= gone
                self.squares -= gone * gone
        self.price = price
        n = len(self.returns)
        mean = self.total / n if n else None
        std = math.sqrt(max(0.0, self.squares - self.total * self.total / n) / (n - 1)) if n > 1 else None
        return {"n": n, "ret_mean": mean, "ret_std": std}
