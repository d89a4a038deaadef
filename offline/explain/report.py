"""An explanation as text and as JSON."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from data.features.spec import CONTRACT, FeatureSpec
from data.stream.records import PREDICTIONS, TRADES, with_time_texts
from data.times import second_text, time_text, time_texts
from data.trades import Side, Trades
from offline.explain.findings import OUTCOMES, Explanation
from offline.promotion.ledger import Entry

NEWEST = 5
"""Number of a window's trades in a short report."""


def described(each: Explanation, *, all_trades: bool) -> dict[str, Any]:
    """Return an explanation as an object for JSON."""
    record, model, promotion = each.prediction, each.model, each.promotion
    window: dict[str, Any] | None = None
    if each.window is not None:
        trades = _trades(each.window)
        window = {
            "count": len(trades),
            "of_contract_columns": record.n + 1,
            "first": trades[0],
            "last": trades[-1],
            "all" if all_trades else "newest": trades if all_trades else trades[-NEWEST:],
        }
    return {
        "outcome": OUTCOMES[each.exit_code],
        "findings": [finding._asdict() for finding in each.findings],
        "prediction": with_time_texts(msgspec.to_builtins(record)),
        "place": {
            "trade": {"topic": TRADES, "kafka_partition": record.kafka_partition, "kafka_offset": record.kafka_offset},
            "prediction": {
                "topic": PREDICTIONS,
                "kafka_partition": each.kafka_partition,
                "kafka_offset": each.kafka_offset,
            },
            "read_from": {"prediction": each.forecast_from, "trades": each.trades_from},
            "recording": None if each.recorded is None else {"file": each.recorded.file, "line": each.recorded.line},
        },
        "model": {
            "name": model.name,
            "version": record.version,
            "digest": record.digest,
            "file": model.origin or None,
            "train_end": None if model.model is None else second_text(model.model.train_end),
        },
        "promotion": None if promotion is None else msgspec.to_builtins(promotion),
        "trades": window,
        "remade": with_time_texts(msgspec.to_builtins(each.remade)),
    }


def _trades(trades: Trades) -> list[dict[str, Any]]:
    sides = {Side.BUY: "buy", Side.SELL: "sell"}
    return [
        {
            "trade_id": int(trades.trade_id[row]),
            "event_time": time,
            "price": float(trades.price[row]),
            "size": None if np.isnan(trades.size[row]) else float(trades.size[row]),
            "side": sides.get(Side(trades.side[row])),
        }
        for row, time in enumerate(time_texts(trades.event_time))
    ]


def rendered(each: Explanation, *, all_trades: bool) -> str:
    """Return an explanation as text for people."""
    record, said = each.prediction, described(each, all_trades=all_trades)
    event_time = time_text(record.event_time)
    lines = [
        f"{record.source_id} {record.product_id} trade {record.trade_id}  {event_time}  price {record.price}",
        "",
        f"forecast    {record.score} in [{record.interval[0]}, {record.interval[1]}]",
        f"            volatility of the {record.horizon_s} s after it, scored {time_text(record.ts)}",
    ]
    if record.in_sample:
        lines.append("            in-sample: the model was trained on data as late as this")
    if record.missing:
        lines.append(f"            made without {', '.join(record.missing)}")
    lines += [
        f"shadow      {shadow.score} by volatility-{shadow.model_variant} version {shadow.version}"
        for shadow in record.shadow
    ]
    trained = f", trained up to {said['model']['train_end']}" if said["model"]["train_end"] else ""
    lines += [
        f"model       {each.model.name} version {record.version}{trained}",
        f"            SHA-256 {record.digest}",
        *_promotion_lines(each.promotion),
        f"row         spec {record.spec_id}",
    ]
    values = {name: getattr(record, name) for name in FeatureSpec().columns}
    lines += [f"            {name:<24}{'missing' if value is None else value}" for name, value in values.items()]
    if (window := said["trades"]) is not None:
        first, last = window["first"], window["last"]
        lines += [
            f"trades      {window['count']:,}, the newest {window['of_contract_columns']} for {', '.join(CONTRACT)}",
            f"            first {_line(first)}",
            f"            last  {_line(last)}",
            f"            {'all of them' if all_trades else 'the newest'}:",
        ]
        lines += [f"                  {_line(trade)}" for trade in window["all" if all_trades else "newest"]]
    recorded = f"{each.recorded.file}:{each.recorded.line}" if each.recorded is not None else "unknown, see below"
    lines += [
        f"topic       trade {each.trade_place}, forecast {PREDICTIONS}[{each.kafka_partition}]@{each.kafka_offset}",
        f"read from   {_places(each)}",
        f"recording   {recorded}",
        "",
    ]
    lines += [f"{finding.outcome:<12}{finding.part}: {finding.said}" for finding in each.findings]
    return "\n".join(lines)


def _places(each: Explanation) -> str:
    """Return where forecast and trades were read; the lake has what its topic no longer holds."""
    found = [f"forecast: {each.forecast_from}"]
    if each.trades_from is not None:
        found.append(f"trades: {each.trades_from}")
    return ", ".join(found)


def _promotion_lines(entry: Entry | None) -> list[str]:
    if entry is None:
        return ["promotion   unknown, see below"]
    forced = ", forced" if entry.is_forced else ""
    return [
        f"promotion   {second_text(entry.at or entry.begun)} {entry.action}{forced}, by {entry.who}: {entry.why}",
        f"            from version {entry.from_version or '-'} to {entry.to_version}, entry {entry.entry_id}",
    ]


def _line(trade: dict[str, Any]) -> str:
    size = "size unknown" if trade["size"] is None else trade["size"]
    return f"{trade['trade_id']}  {trade['event_time']}  {trade['price']}  {size}  {trade['side'] or ''}".rstrip()
