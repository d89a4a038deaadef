"""The line of a recording behind a trade is found, and read as the recording was."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from data.recordings.readers import read_trades
from data.stream.origin import write_origin
from offline.explain import recordings
from offline.explain.findings import Explanation, Finding, FoundModel
from offline.explain.recordings import find_in_recordings


def test_a_line_has_the_product_that_the_name_of_its_file_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line alone, under another name, would be a trade of the source's product, SOL-USD."""
    path = tmp_path / "ETHUSDT-trades-2025-01.csv"
    rows = [f"{1230 + i},50{i}.5,1,50{i}.5,173568960{i}000,true" for i in range(9)]
    path.write_text("\n".join(["id,price,qty,quote_qty,time,is_buyer_maker", *rows]) + "\n")
    (batch,) = read_trades(path, product_id="SOL-USD")
    trade = batch.trades.take(slice(4, 5))
    assert [key.product_id for key in trade.keys] == ["ETH-USDT"]
    model = FoundModel("volatility-ml", None, "", Finding("model", "expired", "gone"))
    each = Explanation(SimpleNamespace(trade_id=1234), 5, 0, model, trade=trade)
    monkeypatch.setattr(recordings, "_read_recordings", lambda *_: ({}, "all lines are parsed"))
    find_in_recordings([each], "ETH-USDT", write_origin([path], "SOL-USD", "10"))
    assert each.findings == [Finding("recording", "equal", f"{path}:6")]
