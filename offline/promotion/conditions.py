"""Conditions of the gate, from figures alone: nothing is read, fitted or scored here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.times import DAY_S, NS
from data.trades import Floats, Int64s
from data.truth.losses import TERCILES, coverage
from offline.leaks.rows import MAX_DUPLICATES

MIN_HORIZONS = 240
"""Four hours at 60 s. With fewer horizons of test, the coverage of a perfect 90 % interval can leave `COVERAGE`."""
MIN_HOURS = 3
"""Minimum number of hours of the day with rows: one hour shows one mood of the market."""
COVERAGE = (0.82, 0.96)
GAIN = 0.97
"""Maximum QLIKE ratio where a gain is asked for. Of 1,200 models equal by construction, none was below .97."""
NO_LOSS = 1.02
"""Maximum QLIKE ratio where newer data, or a first version, must only do no harm."""
MAX_PART = 1.10
"""Maximum QLIKE ratio in each tercile of volatility, and for each product."""
MAX_P = 0.05
NOT_JUDGED = "not judged"
MAX_OFF = 1e-5
"""Maximum relative difference of an answer between a version and its recipe fitted again by other code, packages or CPU
type."""
LIMITS: dict[str, str] = {
    "refit": f"the same digest; answers within {MAX_OFF} where code, lock or CPU type have changed",
    "horizons": f"{MIN_HORIZONS} or more",
    "training horizons": f"{MIN_HORIZONS} or more",
    "hours of the day": f"{MIN_HOURS} or more in training and in test",
    "duplicates": f"{MAX_DUPLICATES:.0%} or less of the test rows equal to other rows",
    "answers": "0 unusable",
    "answers alone": "the same in any batch",
    "interval width": "0 of width 0",
    "coverage": f"{COVERAGE[0]:.0%} to {COVERAGE[1]:.0%}",
    "leak sentinels": "all passed",
}
"""Allowed figures by name of condition, for the conditions on any version."""


class Kind(StrEnum):
    """Kind of a version: what the version is compared with, and how much better the version must be."""

    FIRST = "first version"
    """There is no champion of this spec."""
    REFRESH = "refresh"
    """The champion has the same recipe and code, and the version other rows that end no earlier."""
    NEW_RECIPE = "new recipe"
    """Any other version: another name of recipe, changed code under the same name, or rows that end earlier."""


class Condition(NamedTuple):
    """One condition of the gate, with the found and the allowed figures."""

    name: str
    is_met: bool
    found: str
    allowed: str


class Finding(NamedTuple):
    """A found figure, and whether the figure is within its limit."""

    is_met: bool
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Losses of a version and of its rivals on the same n rows.

    Attributes:
        kind: of the version.
        losses: shape (n,), QLIKE of each judged row.
        rival: shape (n,), of the champion; for a first version, of the calibrated EWMA.
        baseline: shape (n,), of the baseline's champion, for a version of `volatility-ml`; None for other versions.
        horizon: shape (n,), number of the horizon of time of each row.
        tercile: shape (n,), 0 to 2, by a volatility known at the time of the forecast.
        product: shape (n,), product of each row.
        tries: number of versions of this model judged on these rows, with this one; at least 1.
    """

    kind: Kind
    losses: Floats
    rival: Floats
    baseline: Floats | None
    horizon: Int64s
    tercile: NDArray[np.intp]
    product: NDArray[np.str_]
    tries: int = 1


def limits_of(kind: Kind, rival: str, baseline: str | None, tries: int) -> dict[str, str]:
    """Return the allowed figures of a comparison by name of condition.

    Args:
        rival, baseline: names for people; `baseline` is None if the version is no `volatility-ml`.
    """
    tried = f" after {tries} tries on these rows" if tries > 1 else ""
    limits = {"QLIKE": f"{GAIN if kind == Kind.NEW_RECIPE else NO_LOSS} of {rival} or less"}
    if kind == Kind.NEW_RECIPE:
        limits["significance"] = f"p below {MAX_P}{tried}"
        limits["terciles of volatility"] = limits["products"] = f"{MAX_PART:.2f} of {rival} or less in each"
    if baseline is not None:
        limits["gain over the baseline"] = f"{GAIN} of {baseline} or less"
        limits["significance of this gain"] = f"p below {MAX_P}"
    return limits


def compare(given: Comparison) -> dict[str, Finding]:
    """Return the findings on losses by name of condition, for the names of `limits_of`."""
    ours, rival, baseline = given.losses, given.rival, given.baseline
    is_new = given.kind == Kind.NEW_RECIPE
    found = {"QLIKE": _ratio(ours, rival, GAIN if is_new else NO_LOSS)}
    if is_new:
        found["significance"] = _significance(ours, rival, given.horizon, given.tries)
        terciles = {f"tercile {each + 1}": given.tercile == each for each in range(TERCILES)}
        found["terciles of volatility"] = _parts(ours, rival, terciles)
        products = {str(name): given.product == name for name in np.unique(given.product)}
        found["products"] = _parts(ours, rival, products)
    if baseline is not None:
        found["gain over the baseline"] = _ratio(ours, baseline, GAIN)
        found["significance of this gain"] = _significance(ours, baseline, given.horizon, tries=1)
    return found


def check_training(horizon: Int64s, training_time: Int64s, test_time: Int64s) -> dict[str, Finding]:
    """Return the findings on the amount of training.

    Args:
        horizon: shape (m,), number of the horizon of time of each training row.
        training_time: shape (m,), event time, ns since 1970.
        test_time: shape (n,), event time of the judged test rows, ns since 1970.
    """
    horizons = len(np.unique(horizon))
    hours = [len(np.unique(each // (3_600 * NS) % (DAY_S // 3_600))) for each in (training_time, test_time)]
    return {
        "training horizons": Finding(horizons >= MIN_HORIZONS, f"{horizons:,}"),
        "hours of the day": Finding(min(hours) >= MIN_HOURS, f"{hours[0]} in training, {hours[1]} in test"),
    }


def check_duplicates(are_duplicates: NDArray[np.bool_]) -> Finding:
    """Return the finding on test rows that equal other rows.

    Args:
        are_duplicates: shape (n,), n >= 1, see `offline.leaks.rows.duplicates`.
    """
    share = float(np.mean(are_duplicates))
    return Finding(share <= MAX_DUPLICATES, f"{share:.1%}, {int(np.sum(are_duplicates)):,} of {len(are_duplicates):,}")


def check_intervals(lower: Floats, upper: Floats, targets: Floats) -> dict[str, Finding]:
    """Return the findings on intervals.

    Args:
        lower, upper: shape (n,), n >= 1, ends of the intervals.
        targets: shape (n,), realized volatility, raised to the square root of the variance floor.
    """
    flat = int(np.sum(~(upper > lower)))
    covered = coverage(targets, lower, upper)
    return {
        "interval width": Finding(flat == 0, f"{flat:,} of {len(lower):,} of width 0"),
        "coverage": Finding(COVERAGE[0] <= covered <= COVERAGE[1], f"{covered:.1%}"),
    }


def conditions(found: dict[str, Finding], limits: dict[str, str]) -> list[Condition]:
    """Return a condition for each limit; a condition without a finding was not judged, and so is not met."""
    missing = Finding(False, NOT_JUDGED)
    return [Condition(name, *found.get(name, missing), allowed) for name, allowed in limits.items()]


def _ratio(ours: Floats, theirs: Floats, limit: float) -> Finding:
    """Compare the mean losses; a rival without loss is beaten by nobody."""
    mean, other = float(np.mean(ours)), float(np.mean(theirs))
    ratio = mean / other if other else float("inf")
    return Finding(ratio <= limit, f"{ratio:.4f}, {mean:.4g} of {other:.4g}")


def _significance(ours: Floats, theirs: Floats, horizon: Int64s, tries: int) -> Finding:
    from offline.evaluation.significance import block_test  # noqa: PLC0415 - scipy: half a second, for no rollback

    try:
        p = block_test(ours - theirs, horizon).p_one_sided * tries
    except ValueError as error:
        return Finding(False, str(error))
    times = f", {p / tries:.4f} times {tries} tries" if tries > 1 else ""
    return Finding(p < MAX_P, f"p {min(p, 1.0):.4f}{times}")


def _parts(ours: Floats, theirs: Floats, parts: dict[str, NDArray[np.bool_]]) -> Finding:
    """Compare the mean losses in each part of the rows, and name the worst part."""
    ratios = {
        name: float(np.mean(ours[rows])) / max(float(np.mean(theirs[rows])), np.finfo(float).tiny)
        for name, rows in parts.items()
        if rows.any()
    }
    worst = max(ratios, key=lambda name: ratios[name])
    return Finding(ratios[worst] <= MAX_PART, f"{ratios[worst]:.3f} in {worst}")
