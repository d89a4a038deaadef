"""Keep one record for each open stream, all records in one array that compiled code can read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.trades import StreamKey


class Slots:
    """The records of any number of streams.

    Args:
        new: shape (1,), the record of a new stream.

    Attributes:
        state: one record a slot. Read `state` after a call of `slot`: a new stream may move the array.
    """

    def __init__(self, new: NDArray[np.void]) -> None:
        self._new = new
        self._slots: dict[StreamKey, int] = {}
        self._free: list[int] = []
        self.state = np.zeros(0, new.dtype)

    @property
    def keys(self) -> tuple[StreamKey, ...]:
        """Return the streams that have a record."""
        return tuple(self._slots)

    def slot(self, key: StreamKey) -> int:
        """Return the index of a stream's record in `state`; a new stream gets a record."""
        if key in self._slots:
            return self._slots[key]
        if not self._free:
            have = len(self.state)
            self.state = np.concatenate([self.state, np.zeros(max(have, 8), self.state.dtype)])
            self._free.extend(range(len(self.state) - 1, have - 1, -1))
        slot = self._slots[key] = self._free.pop()
        self.state[slot] = self._new[0]
        return slot

    def record(self, key: StreamKey) -> Any:
        """Return the record of a stream.

        Raises:
            KeyError: the stream has no record.
        """
        return self.state[self._slots[key]]

    def drop(self, key: StreamKey) -> None:
        """Drop the record of a stream, if there is one."""
        if (slot := self._slots.pop(key, None)) is not None:
            self._free.append(slot)
