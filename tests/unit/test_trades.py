"""Trades in columns."""

from __future__ import annotations

import numpy as np

from data.trades import StreamKey, Trades


def trades_of(keys: list[StreamKey], stream: list[int], first_id: int) -> Trades:
    n = len(stream)
    ids = np.arange(first_id, first_id + n, dtype=np.int64)
    price = ids.astype(np.float64)
    return Trades(tuple(keys), np.array(stream, np.int32), ids, ids, ids, price, price, np.zeros(n, np.int8))


def test_joined_parts_keep_their_streams() -> None:
    """The same number means another stream in each part: 0 is A in the first, B in the second."""
    a, b, c = (StreamKey("s", name) for name in ("A-USD", "B-USD", "C-USD"))
    joined = Trades.join([trades_of([a, b], [0, 1, 0], 1), trades_of([b, c], [0, 1], 11)])
    assert joined.keys == (a, b, c)
    assert [joined.keys[i] for i in joined.stream] == [a, b, a, b, c]
    assert joined.trade_id.tolist() == [1, 2, 3, 11, 12]
    assert joined.price.tolist() == [1, 2, 3, 11, 12]
    assert joined.stream.dtype == np.int32
