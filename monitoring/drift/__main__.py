"""Judge drift in a process of its own: `python -m monitoring.drift FOLDER [--after NS]`.

The folder holds `reference.parquet` and `current.parquet`, frames with the event time as index, see
`monitoring.drift.hours.row_signals` for the columns. The folder gets `calibration.json`, `findings.json` and
`drift.html`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from data.trades import Int64s
from data.truth.targets import variance_floor
from monitoring.drift.calibration import Calibration, calibrate
from monitoring.drift.files import BAD_FRAMES, CALIBRATION, CURRENT, FINDINGS, HTML, REFERENCE
from monitoring.drift.hours import HOUR_NS, Hours, columns_of, hours_of
from monitoring.drift.verdict import Verdict, findings_of, judge


def main() -> int:
    """Judge the full hours of a frame against a reference, and write findings and a report."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.drift", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--after", type=int, default=0, help="begin of the newest judged hour, ns since 1970")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    reference, current = pd.read_parquet(folder / REFERENCE), pd.read_parquet(folder / CURRENT)
    try:
        calibration = calibration_of(reference)
        hours = full_hours(current, calibration)
        verdict = judge(hours, calibration)
        new = np.flatnonzero(hours.start > arguments.after)
        if not len(new):
            raise ValueError("no full hour of rows is new")
    except ValueError as error:
        print(error, file=sys.stderr)
        return BAD_FRAMES
    shown = shown_hour(verdict, new)
    # Evidently takes seconds to import.
    from monitoring.drift.report import make_report  # noqa: PLC0415

    start = int(verdict.start[shown])
    ratios = make_report(reference, current, start, calibration, folder / HTML)
    (folder / CALIBRATION).write_bytes(msgspec.json.encode(calibration))
    (folder / FINDINGS).write_bytes(msgspec.json.encode(findings_of(verdict, new, shown, ratios)))
    return 0


def calibration_of(reference: pd.DataFrame) -> Calibration:
    """Return what is usual in a reference, see `calibrate`."""
    event_time, columns = columns_of(reference)
    floor = variance_floor(columns["target"] ** 2)
    return calibrate(hours_of(event_time, columns, floor), floor)


def full_hours(current: pd.DataFrame, calibration: Calibration) -> Hours:
    """Return the statistics of the hours that have ended by the newest row."""
    event_time, columns = columns_of(current)
    is_full = event_time < event_time[-1:].sum() // HOUR_NS * HOUR_NS
    return hours_of(
        event_time[is_full], {name: each[is_full] for name, each in columns.items()}, calibration.variance_floor
    )


def shown_hour(verdict: Verdict, new: Int64s) -> int:
    """Return the index of the hour to show: the newest, or the new hour that drifts most."""
    drifting = [hour for hour in new.tolist() if verdict.drift[hour]]
    return max(drifting, key=verdict.largest) if drifting else int(new[-1])


if __name__ == "__main__":
    sys.exit(main())
