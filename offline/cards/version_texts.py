"""Report and model card of a version, from the answers that training gave on the version's test rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.features.spec import FeatureSpec
from data.models.served import BASELINE, Scores
from data.times import DAY_S, NS, second_text, to_datetime
from data.trades import Floats, Int64s
from offline.evaluation.promises import MIN_HORIZONS
from offline.evaluation.report import Subject, html_report, markdown_table, meaning_of_columns, tercile_table
from offline.evaluation.scoring import Scores as Figures
from offline.evaluation.scoring import score
from offline.evaluation.walk_forward import CALIBRATED_EWMA, Run
from offline.losses_table import UNSCALED_EWMA, Evaluation, plain_ewma
from offline.models.candidate import Candidate
from offline.models.cascade import FIRST_MARKET, Forecasts
from offline.promotion.conditions import GAIN, LIMITS, MAX_P, NO_LOSS
from offline.promotion.provenance import LakeRows, Provenance, SimulatedRows
from offline.samples import Sample

REPORT, CARD = "evaluation/report.html", "evaluation/card.md"
"""Paths among the artifacts of a version's run."""

UNSCALED = "unscaled_ewma"
"""Name of the unscaled EWMA in reports."""

KINDS = {
    "baseline": "a calibrated EWMA: half-life and scale have the least QLIKE on the training rows",
    "ml": "the ratio of the next variance to a long EWMA, by a ridge and small trees, shrunk to the calibrated EWMA",
}
"""Description of a model by its variant."""


@dataclass(frozen=True, slots=True)
class TestRows:
    """Judged test rows of a training, ordered by event time; see `offline.evaluation.walk_forward.JudgedRows`."""

    spec: FeatureSpec
    products: tuple[str, ...]
    product: NDArray[np.intp]
    event_time: Int64s
    targets: Floats
    age_s: Floats

    @classmethod
    def of(cls, judged: Sample, spec: FeatureSpec, order: NDArray[np.intp]) -> TestRows:
        """Return the rows of a sample in an order."""
        rows = judged.take(order)
        products, product = np.unique(rows.product_id, return_inverse=True)
        known_steps = rows.values[:, spec.columns.index("known_steps")]
        names = tuple(str(name) for name in products)
        return cls(spec, names, product, rows.event_time, rows.targets, known_steps * spec.grid_step_s)


def version_texts(candidate: Candidate, made: Provenance, compared: Evaluation, spec: FeatureSpec) -> dict[str, str]:
    """Return the report and the card of a version, by their paths among the artifacts; no model scores a row again.

    The same rows and models give the same texts.

    Args:
        made: what the version was made from.
        compared: answers on the test rows: of the candidate, and, if there are such, of the baseline of the same
            training and of the champion.
    """
    run = run_of(candidate, compared, spec)
    figures = score(run)
    test = f"{second_text(compared.first_time)} to {second_text(compared.last_time)}"
    subject = Subject(
        f"{candidate.name}, digest {candidate.model.digest[:12]}",
        f"{made.recipe}, trained up to {second_text(candidate.model.train_end)}, judged on the test rows from {test}, "
        "without adaptation",
    )
    return {REPORT: html_report(subject, run, figures), CARD: version_card(candidate, made, compared, figures, spec)}


def run_of(candidate: Candidate, compared: Evaluation, spec: FeatureSpec) -> Run:
    """Return the forecasts of a candidate and its rivals on the test rows.

    The reference is the calibrated EWMA of the same training; for a candidate that is this EWMA, the unscaled EWMA.
    """
    order = np.argsort(compared.judged.event_time, kind="stable")
    answers = {candidate.name: compared.answers[candidate.name]}
    if candidate.name != BASELINE and BASELINE in compared.answers:
        answers[CALIBRATED_EWMA] = compared.answers[BASELINE]
    answers[UNSCALED] = compared.answers[UNSCALED_EWMA]
    answers |= {name: each for name, each in compared.answers.items() if name.startswith(f"{candidate.name} version ")}
    rows = TestRows.of(compared.judged, spec, order)
    return Run(
        rows=rows,
        forecasts={name: _forecasts(each, order) for name, each in answers.items()},
        floor=np.full(len(order), compared.variance_floor),
        left_out={},
        refits=np.array([], np.int64),
        weights={candidate.name: [candidate.weights]},
        reference=CALIBRATED_EWMA if CALIBRATED_EWMA in answers else UNSCALED,
    )


def _forecasts(answers: Scores, order: NDArray[np.intp]) -> Forecasts:
    return Forecasts(answers.score[order], answers.lower[order], answers.upper[order])


def version_card(
    candidate: Candidate, made: Provenance, compared: Evaluation, figures: Figures, spec: FeatureSpec
) -> str:
    """Return the model card of a version in Markdown: purpose, recipe, rows, figures, gate, limits, reproduction."""
    model, params = candidate.model, candidate.params
    lines = [
        f"# Model card of {candidate.name}",
        "",
        f"Digest `{model.digest}`, feature spec `{spec.spec_id}`.",
        "",
        "## Purpose",
        "",
        f"Forecast of the realized volatility of one product over the next {spec.horizon_s} s, not annualized, with an "
        f"interval of nominal {model.coverage:.0%}, for `POST /predict` and the topic `predictions`. The version "
        "serves once the gate has moved the alias `champion` to the version.",
        "",
        "## Recipe",
        "",
        f"- `{made.recipe}`: {KINDS[model.variant]}.",
        f"- Columns: {_listed(model.columns)}.",
        f"- Steps, the best first, by their reference: {_listed(params['steps'])}.",
        f"- Weight of each shape beside the calibrated EWMA: {', '.join(map(str, params['weights'])) or 'no shape'}.",
        f"- Scales: {', '.join(f'`{name}` {scale}' for name, scale in params['scales'].items())}.",
        f"- Priors, variance per horizon: {', '.join(f'{name} {prior}' for name, prior in params['priors'].items())}.",
        "",
        "## Training rows",
        "",
        f"- {params['rows']:,} rows in {params['horizons']:,} horizons, {params['from']} to {params['to']}.",
        f"- Training ended at {second_text(model.train_end)}: forecasts for earlier rows are in-sample.",
        f"- Days: {_days(made)}.",
        *_sample(made, params["rows"]),
        "",
        "## Test rows",
        "",
        f"- {compared.rows:,} rows in {compared.horizons:,} horizons, {second_text(compared.first_time)} to "
        f"{second_text(compared.last_time)}.",
        f"- Zero targets: {compared.zero_target_share:.1%}. Realized variances below {compared.variance_floor:.6g} "
        "count as this floor.",
        *_sample_of_test(compared),
        "",
        markdown_table(figures),
        "",
        meaning_of_columns(figures) + _names(figures, spec),
        "",
        f"Coverage by tercile of the volatility that `{figures.reference}` forecasts:",
        "",
        tercile_table(figures),
        "",
        "Metrics, as in the tags of the version; `contract`: asked with `n`, `ret_mean` and `ret_std` alone; "
        "`unconditional`: asked with nothing.",
        "",
        _table(("metric", "value"), [(f"`{name}`", f"{value:.6g}") for name, value in candidate.metrics.items()]),
        "",
        "## Promises",
        "",
        *_promises(candidate),
        "",
        "## Gate",
        "",
        _table(("condition", "in this training", "the gate asks for"), _conditions(candidate, compared, figures)),
        "",
        "The gate believes none of these figures: a promotion fits the recipe again and scores all newer rows. The "
        f"evidence is in the ledger: `python -m offline.promotion history {candidate.name}`.",
        "",
        "## Limits of use",
        "",
        *_limits(candidate, made, spec),
        "",
        "## Reproduction",
        "",
        *_reproduction(made, compared),
    ]
    return "\n".join(lines) + "\n"


def _promises(candidate: Candidate) -> list[str]:
    """Return the quantiles that monitoring compares live hours with."""
    if not candidate.promises:
        return [f"None: no hour of the test has {MIN_HORIZONS} judged horizons of a product."]
    return [
        f"Quantiles over the hours of each product with {MIN_HORIZONS} or more judged horizons of the test, of adapted "
        "forecasts, as in the tags of the version. Monitoring compares live hours with them.",
        "",
        _table(("promise", "value"), [(f"`{name}`", f"{value:.6g}") for name, value in candidate.promises.items()]),
    ]


def _names(figures: Figures, spec: FeatureSpec) -> str:
    """Return the meaning of the rivals' names."""
    unscaled = f" `{UNSCALED}` is the column `{plain_ewma(spec)}`, or the mean so far, as it is."
    if CALIBRATED_EWMA not in figures.losses:
        return unscaled
    return f" `{CALIBRATED_EWMA}` is `volatility-baseline` of the same training.{unscaled}"


def _conditions(candidate: Candidate, compared: Evaluation, figures: Figures) -> list[tuple[str, str, str]]:
    """Return name, figure of this training and limit of conditions of the gate."""
    own = compared.losses_of(candidate.name)
    sentinels = sum(name.startswith("sentinel ") for name in candidate.params)  # a leak would have ended the training
    found = [
        ("test horizons", f"{compared.horizons:,}", LIMITS["horizons"]),
        ("training horizons", f"{candidate.params['horizons']:,}", LIMITS["training horizons"]),
        ("coverage", f"{own.coverage:.1%}", LIMITS["coverage"]),
        ("leak sentinels", f"{sentinels} of {sentinels} passed", "all passed"),
    ]
    if CALIBRATED_EWMA in figures.losses:
        limit = f"{GAIN} of the baseline's champion or less, p below {MAX_P}"
        ratio = own.qlike / compared.losses_of(BASELINE).qlike
        found.append(("QLIKE / QLIKE of `calibrated_ewma`", f"{ratio:.3f}", limit))
    for name in figures.losses:
        if name not in (candidate.name, CALIBRATED_EWMA, UNSCALED):
            limit = f"{NO_LOSS} or less; {GAIN} or less for a new recipe"
            found.append((f"QLIKE / QLIKE of `{name}`", f"{own.qlike / compared.losses_of(name).qlike:.3f}", limit))
    return found


def _limits(candidate: Candidate, made: Provenance, spec: FeatureSpec) -> list[str]:
    params = candidate.params
    lines = [
        "- The model knows no level of volatility but the priors: a forecast follows the level of its own market once "
        f"a half-life of {spec.half_lives[1]} s is known. Before, the prior counts as much as 60 s of data.",
        f"- A row without weighted variances is answered from `n`, `ret_mean` and `ret_std`{_width(params)}: such a "
        "forecast knows no time, and its interval is wide.",
        f"- The horizon is {spec.horizon_s} s. No sum of forecasts is a forecast of a longer horizon.",
        "- No interval covers the forecasts just before a jump: nothing in the past of a market announces a jump.",
        "- Apart from the promises, the figures of this card are without adaptation. While the model serves, scale and "
        "interval adapt to each source and product.",
        "- Figures belong to these days and products; `python -m offline.evaluation FILE --champions` judges another "
        "recording.",
    ]
    if isinstance(made.rows, SimulatedRows) or candidate.model.train_end.date() < FIRST_MARKET:
        lines.append("- Training and test are simulated days: no figure here was seen on a real market.")
    return lines


def _width(params: Mapping[str, Any]) -> str:
    """Return the interval of the contract step in words."""
    if "n" not in params["steps"]:
        return ""
    low, high = params["intervals"][params["steps"].index("n")]
    return f", with an interval of {low:.2f} to {high:.2f} times the score"


def _days(made: Provenance) -> str:
    """Return days and products of the training rows in words."""
    if isinstance(made.rows, SimulatedRows):
        days = f"{made.rows.days[0]} to {made.rows.days[-1]}"
        products = " and ".join(made.rows.products)
        return f"{len(made.rows.days)} simulated days of {products}, seed {made.rows.seed}, {days}"
    return "; ".join(
        f"{len(days)} of {product}, {min(days)} to {max(days)}" for product, days in made.rows.content_hashes.items()
    )


def _sample(made: Provenance, rows: int) -> list[str]:
    """Return the sample of rows that trained the version, in words; nothing if all rows trained."""
    if isinstance(made.rows, SimulatedRows) or made.rows.sample is None:
        return []
    of, days = made.rows.sample, len(made.rows.product_days())
    return [
        f"- These rows are a stratified sample, {rows / of.of_rows:.3%} of {of.of_rows:,} rows, by product, day and "
        f"volatility: {of.share:.3%} of the rows of {days:,} of {of.of_days:,} product-days, seed {of.seed}. "
        f"`TRAIN_MAX_MB` was {of.max_mb}.",
    ]


def _sample_of_test(compared: Evaluation) -> list[str]:
    """Return the sample of the test in report and tables, in words; nothing if they show all rows."""
    if len(compared.judged) == compared.rows:
        return []
    return [
        f"- All of these rows set the metrics and the promises. The report and the two tables here show a stratified "
        f"sample, {len(compared.judged):,} of them.",
    ]


def _reproduction(made: Provenance, compared: Evaluation) -> list[str]:
    if isinstance(made.rows, LakeRows):
        tested = np.unique(compared.judged.event_time // (DAY_S * NS))
        config = {
            "products": list(made.rows.content_hashes),
            "first_day": _first_day(made.rows).isoformat(),
            "last_day": to_datetime(int(tested[-1]) * DAY_S * NS).date().isoformat(),
            "test_days": len(tested),
        }
        command = ["Dagster's job `retrain` on the same lake, with this config:", "", "```json"]
        command += [json.dumps({"ops": {"models": {"config": config}}}), "```"]
        if made.rows.sample is not None:
            command += ["", f"with `TRAIN_MAX_MB={made.rows.sample.max_mb}` in the environment."]
    else:
        command = ["```", ".venv/bin/python -m offline.training", "```"]
    return [
        *command,
        "",
        "The same rows, code, locked packages and type of CPU give the same digest.",
        "",
        f"- Code digest `{made.code_digest}`",
        f"- Lock digest `{made.lock_digest}`",
        f"- CPU: {made.cpu_type}",
        "- Rows: the tag `rows` of the version",
    ]


def _first_day(rows: LakeRows) -> date:
    return rows.sample.first_day if rows.sample else min(day for _, day in rows.product_days())


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
