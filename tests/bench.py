"""Measure speed beside other libraries doing the same job.

`make bench` prints a table and writes `bench.json` under VAR_DIR; names of parts as arguments limit the run. Speeds are
medians of rounds with all sides in turns, so that a busy machine is busy for every side.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.benchmarks import (
    adaptation,
    challenger,
    core,
    dialects,
    edge_latency,
    edge_predict,
    files,
    members,
    records,
    shadows,
    staleness,
    streams,
)
from tests.benchmarks.measure import Row, ToolMissing

FILE_ROWS = (1_000_000, 10_000_000)
STREAMED = 500_000
DIALECT_ROWS = 500_000
PACKAGES = (
    "numpy",
    "numba",
    "pandas",
    "polars",
    "pyarrow",
    "onnxruntime",
    "confluent-kafka",
    "fastapi",
    "uvicorn",
    "mlflow",
)


def file_rows() -> list[Row]:
    with TemporaryDirectory() as folder:
        return files.rows(Path(folder), FILE_ROWS)


PARTS: dict[str, Callable[[], Sequence[Row]]] = {
    "core": core.rows,
    "records": lambda: records.rows(core.simulated_trades(records.SKIPPED + records.BATCH)),
    "files": file_rows,
    "dialects": lambda: dialects.rows(DIALECT_ROWS),
    "streams": lambda: streams.rows(core.simulated_trades(STREAMED)),
    "members": lambda: members.rows(core.simulated_trades(STREAMED)),
    "adaptation": lambda: adaptation.rows(core.simulated_trades(STREAMED)),
    "challenger": challenger.rows,
    "latency": edge_latency.rows,
    "staleness": staleness.rows,
    "shadows": lambda: list(shadows.rows(core.simulated_trades(STREAMED))),
    "predict": edge_predict.rows,
}


def processor() -> str:
    """Return the machine's name for its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def result_table(rows: Sequence[Row]) -> Table:
    table = Table("what", "unit", title="cryptovol bench", title_justify="left")
    table.add_column("ours", justify="right")
    table.add_column("others (ours is so many times theirs)")
    for row in rows:
        if row.unit == "relative":
            ours, peers = f"{row.value:.1e}", [f"{name} {value:.1e}" for name, value in row.peers.items()]
        else:
            ours = _figure(row.value)
            peers = [f"{name} {_figure(value)} ({row.value / value:.2f} x)" for name, value in row.peers.items()]
        table.add_row(row.name, row.unit, ours, "\n".join(peers) or "–")
    return table


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="How fast it is here.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=", ".join(PARTS))
    parts = parser.parse_args().parts or list(PARTS)
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    load = os.getloadavg()[0]
    rows: list[Row] = []
    for part in track(parts, "measuring", console=console, transient=True):
        try:
            rows.extend(PARTS[part]())
        except ToolMissing as missing:
            console.print(f"{part} is not measured: {missing}")
    machine = {
        "processor": processor(),
        "processors": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "load_before": round(load, 2),
    }
    versions = (
        {"python": platform.python_version()} | {name: version(name) for name in PACKAGES} | streams.peer_versions()
    )
    console.print(result_table(rows))
    console.print(f"{machine['processor']}, {machine['processors']} processors, load before: {load:.1f}")
    path = Path(os.environ.get("VAR_DIR") or "var") / "bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = msgspec.json.encode({"machine": machine, "versions": versions, "rows": rows})
    path.write_bytes(msgspec.json.format(found, indent=2) + b"\n")
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
