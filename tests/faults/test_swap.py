"""Promotions and rollbacks under load: no request fails, and each answer comes from the model named in the answer."""

from __future__ import annotations

import datetime as dt
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import psutil
import pytest

from data.models.registry import Registry
from data.models.served import ServedModel
from data.recordings.readers import write_csv
from data.simulator.day import simulate_day
from data.times import to_datetime
from data.truth.adaptation import OWN_INTERVAL_HORIZONS
from offline.promotion.gate import Refused
from offline.promotion.ledger import Entry, history
from offline.promotion.register import set_alias
from tests.broker import Broker, free_ports
from tests.faults.asker import Asked
from tests.faults.drill import Drill
from tests.mlflow_server import MlflowServer, running_mlflow
from tests.models import SPEC, baseline, forced, model_bytes, put_version, roll_back_here
from tests.pipeline import Process, running, wait_until
from tests.proofs import Proof

RATE = 200.0
BASELINE_NAME, ML = "volatility-baseline", "volatility-ml"
NOTICED_S = 1.0
Identity = tuple[str, str]
"""Model variant and version, as in each answer and each record."""


def contents() -> dict[str, list[bytes]]:
    """Return four models of one name and one of the other, with different constants, columns and ends of training."""
    ml = [model_bytes(baseline(scale=4.0 + i, prior=1e-6 * (1 + i)), variant="ml") for i in range(2)] + [
        model_bytes(
            baseline("ewma_variance_60", 8.0 + i),
            variant="ml",
            train_end="2026-01-01T00:00:00Z",  # all that they forecast is in-sample
        )
        for i in range(2)
    ]
    return {BASELINE_NAME: [model_bytes()], ML: ml}


def registered(uri: str) -> dict[Identity, tuple[str, ServedModel]]:
    """Register all models; return the registered name and the model by variant and version."""
    found = {}
    for name, files in contents().items():
        for content in files:
            model = ServedModel.load(content, spec_id=SPEC.spec_id)
            found[(model.variant, put_version(uri, name, content))] = (name, model)
    return found


class Mover:
    """Promotes, rolls back, and removes the alias of `ml`, driven by a seeded generator."""

    def __init__(self, registry: Registry, versions: list[str], seed: int) -> None:
        self._registry, self._versions = registry, versions
        self._rng = np.random.default_rng(seed)
        self._newest: str | None = None
        self.done: list[tuple[str, str]] = []

    def _promote_another(self) -> Entry:
        others = [version for version in self._versions if version != self._newest]
        return forced(self._registry, ML, others[self._rng.integers(len(others))])

    def move(self, is_removal: bool) -> tuple[Identity, int]:
        """Move the alias; return the new champion, and the time of the registry's move, ns since 1970."""
        if is_removal:
            set_alias(self._registry, ML, "champion", None)
            return ("baseline", "1"), time.time_ns()
        try:
            goes_back = len(self.done) >= 2 and self._rng.random() < 0.5
            entry = roll_back_here(self._registry, ML) if goes_back else self._promote_another()
        except Refused:  # nothing is before it
            entry = self._promote_another()
        self._newest = entry.to_version
        self.done.append((entry.action, entry.to_version))
        assert entry.at is not None
        return ("ml", entry.to_version), int(entry.at.timestamp() * 1e9)


def rows_asked(folder: Path) -> tuple[list[dict[str, Any]], Path]:
    """Return 64 rows of features and a file of the rows: whole rows, rows of the contract alone, and empty rows."""
    rng = np.random.default_rng(5)
    rows: list[dict[str, Any]] = []
    for i in range(64):
        row: dict[str, Any] = dict(
            zip(SPEC.columns, np.exp(rng.normal(-12, 2, len(SPEC.columns))).tolist(), strict=True)
        )
        row |= {"n": 50}
        if i % 8 == 6:
            row = {name: row[name] for name in SPEC.columns[:3]}
        elif i % 8 == 7:
            row = {"n": 0}
        rows.append(row)
    path = folder / "rows.ndjson"
    path.write_bytes(b"\n".join(msgspec.json.encode(row) for row in rows))
    return rows, path


def expected(model: ServedModel, rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Return score, interval and missing columns of each row, computed here."""
    nan = float("nan")
    values = [[nan if row.get(name) is None else row[name] for name in model.columns] for row in rows]
    scores = model.score(np.array(values, np.float64))
    intervals = np.column_stack((scores.lower, scores.upper)).tolist()
    missing = [[model.columns[i] for i in np.flatnonzero(gone)] for gone in scores.missing]
    return list(zip(scores.score.tolist(), intervals, missing, strict=True))


@dataclass
class Answers:
    """Answers of the client so far, read from the growing output."""

    path: Path
    offset: int = 0

    def __post_init__(self) -> None:
        self.all: list[Asked] = []
        self.identities: list[Identity | None] = []

    def read(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.splitlines():
            asked = msgspec.json.decode(line, type=Asked)
            self.all.append(asked)
            answer = msgspec.json.decode(asked.answer)
            ok = asked.status == 200
            self.identities.append((answer["model_variant"], answer["version"]) if ok else None)


class Stack:
    """Broker, registry, forecaster, API, a replay and a client, with their output."""

    def __init__(self, drill: Drill, mlflow: MlflowServer, folder: Path) -> None:
        self.drill, self.mlflow = drill, mlflow
        (self.port,) = free_ports(1)
        self.api = Process("online.api", drill.environ | {"API_PORT": str(self.port)}, folder / "api.log")
        self.rows, path = rows_asked(folder)
        self.client = Process(
            "tests.faults.asker", drill.environ, folder / "answers", (str(self.port), str(RATE), str(path))
        )
        self.answers = Answers(folder / "answers")

    def version(self) -> dict[str, Any] | None:
        try:
            model: dict[str, Any] | None = httpx.get(f"http://127.0.0.1:{self.port}/version", timeout=10).json()[
                "model"
            ]
        except httpx.TransportError:
            return None
        return model

    def forecaster_version(self) -> list[Identity]:
        """Return the models named in the forecaster's metrics."""
        port = re.findall(r'"metrics_port": ?(\d+)', self.drill.forecaster.log.read_text())[-1]
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        return re.findall(r'^cryptovol_model\{.*model_variant="(\w+)",version="(\d+)"\} 1.0', text, re.M)

    def read(self) -> None:
        self.drill.read()
        self.answers.read()

    def first_answer(self, since: int, wanted: Identity, start: int) -> int:
        """Return when the first answer of a model came after a time, looking from place `start` on; 0 if none did."""
        places = range(start, len(self.answers.all))
        came = (self.answers.all[i].done for i in places if self.answers.identities[i] == wanted)
        return min((at for at in came if at > since), default=0)

    def first_forecast(self, since: int, wanted: Identity, start: int) -> int:
        """Return the time of a model's first record after a time, looking from place `start` on; 0 without a record."""
        records = (row for row in self.drill.predictions.records["swaps"][start:] if "end" not in row)
        came = (row["ts"] for row in records if (row["model_variant"], row["version"]) == wanted)
        return min((at for at in came if at > since), default=0)

    def predictions(self) -> list[dict[str, Any]]:
        return self.drill.predictions.rows("swaps")


@contextmanager
def running_stack(
    broker: Broker, folder: Path, trades: int, seed: int
) -> Iterator[tuple[Stack, dict[Identity, tuple[str, ServedModel]], Mover]]:
    """Run everything: the baseline is champion, forecasts flow, the client asks."""
    with running_mlflow(folder) as server:
        models = registered(server.uri)
        registry = Registry(server.uri)
        mover = Mover(registry, [version for variant, version in models if variant == "ml"], seed)
        forced(registry, BASELINE_NAME, "1")
        recording = folder / "recording.csv"
        write_csv(recording, [simulate_day("ETH-USD", dt.date(2025, 3, 5), hours=(10, 20)).take(slice(0, trades))])
        drill = Drill(broker, folder / "models", folder, MLFLOW_TRACKING_URI=server.uri)
        stack = Stack(drill, server, folder)
        ingestor = drill.replay("swaps", recording, REPLAY_SPEED="20", REPLAY_END_ON_STOP="true")
        with drill.services(), running(stack.api, ingestor):
            wait_until(lambda: stack.version(), "the API has a model")
            drill.await_rows("swaps", 1)
            with running(stack.client):
                wait_until(lambda: stack.read() or stack.answers.all, "the first answer")  # type: ignore[func-returns-value]
                yield stack, models, mover


@pytest.mark.parametrize("swaps", [5, pytest.param(100, marks=pytest.mark.acceptance)])
def test_promotions_and_rollbacks_fail_no_request_and_mix_no_models(
    own_broker: Broker, tmp_path: Path, swaps: int, proof: Proof
) -> None:
    """The first move makes the first `ml` champion; one move in five removes the alias of `ml`: the baseline answers.

    Measured: the time from the registry's move to the first answer, and record, of the other model. Required: the
    time from the end of the promotion, because a registry busy with the ledger answers nobody.
    """
    proof.disturbs(f"champion moved {swaps} times at {RATE:g} requests/s and a replay; then the registry stopped")
    with running_stack(own_broker, tmp_path, 3_000 + 600 * swaps, swaps) as (stack, models, mover):
        seen: list[Identity] = []
        api_s, forecaster_s, late_s = [], [], []
        memory = [
            psutil.Process(process.process.pid).memory_info().rss for process in (stack.api, stack.drill.forecaster)
        ]
        for number in range(swaps):
            start = (len(stack.answers.all), len(stack.drill.predictions.records["swaps"]))
            asked = time.time_ns()
            current, moved = mover.move(is_removal=number % 5 == 3)
            through = time.time_ns()
            seen.append(current)

            def noticed(moved: int = asked, wanted: Identity = current, start: tuple[int, int] = start) -> Any:
                stack.read()
                return stack.first_answer(moved, wanted, start[0]) and stack.first_forecast(moved, wanted, start[1])

            wait_until(noticed, f"swap {number} to {current}", within_s=10)
            answer = stack.first_answer(asked, current, start[0])
            forecast = stack.first_forecast(asked, current, start[1])
            api_s.append((answer - moved) / 1e9)
            forecaster_s.append((forecast - moved) / 1e9)
            late_s.append((max(answer, forecast) - through) / 1e9)
        assert stack.version() is not None
        grown = [
            (psutil.Process(process.process.pid).memory_info().rss - before) / 2**20
            for process, before in zip((stack.api, stack.drill.forecaster), memory, strict=True)
        ]
        for name, seconds in (("api_noticed", api_s), ("forecaster_noticed", forecaster_s)):
            proof.saw(**{f"{name}_p50_s": float(np.median(seconds)), f"{name}_max_s": max(seconds)})
        proof.saw(both_after_the_promotion_max_s=max(late_s))
        proof.saw(api_grew_mib=grown[0], forecaster_grew_mib=grown[1])
        entries = [(entry.action, entry.to_version) for entry in history(Registry(stack.mlflow.uri), ML)]
        proof.equal(entries, mover.done, "ledger")
        proof.saw(rollbacks=sum(action == "rollback" for action, _ in entries))

        stack.mlflow.stop()
        goes_on(stack, current)
        stack.client.stop()
        stack.read()
        starts_again_without_a_registry(stack, current, models[current])
        stack.read()
    check_answers(stack, models, seen, proof)
    check_predictions(stack, models, proof)
    assert max(late_s) < NOTICED_S
    assert max(grown) < 48, "a model that was replaced is freed"


def goes_on(stack: Stack, current: Identity) -> None:
    """Stop the registry: forecaster and API report the loss, name the same model, and answer with it."""
    for process in (stack.api, stack.drill.forecaster):
        process.await_log("the registry is away")
    model = stack.version()
    assert model is not None
    assert (model["model_variant"], model["version"], model["origin"]) == (*current, "registry")
    assert stack.forecaster_version() == [current]
    stack.read()
    answers, records = len(stack.answers.all), len(stack.predictions())

    def more() -> bool:
        stack.read()
        return len(stack.answers.all) >= answers + 100 and len(stack.predictions()) >= records + 50

    wait_until(more, "answers and forecasts without the registry")


def starts_again_without_a_registry(stack: Stack, current: Identity, served: tuple[str, ServedModel]) -> None:
    """Restart forecaster and API: the last serving model comes from disk."""
    for process in (stack.api, stack.drill.forecaster):
        assert process.stop() == 0
        process.start()
    model = wait_until(stack.version, "the API has a model again")
    assert (model["name"], model["digest"], model["origin"]) == (served[0], served[1].digest, "disk")
    assert (model["model_variant"], model["version"]) == current
    stack.read()
    records = len(stack.predictions())
    stack.drill.await_rows("swaps", records + 50)
    assert stack.forecaster_version() == [current]


def check_answers(
    stack: Stack, models: dict[Identity, tuple[str, ServedModel]], seen: list[Identity], proof: Proof
) -> None:
    """Check that no request failed, and that each answer equals the output of the model named in the answer."""
    all_asked, identities = stack.answers.all, stack.answers.identities
    failed = [asked for asked in all_asked if asked.status != 200]
    seconds = np.array([(asked.done - asked.due) / 1e9 for asked in all_asked])
    span_s = (max(asked.due for asked in all_asked) - min(asked.due for asked in all_asked)) / 1e9
    proof.saw(requests=len(all_asked), failed=len(failed), per_s=(len(all_asked) - 1) / span_s)
    proof.saw(**{f"answer_p{p}_ms": float(np.percentile(seconds, p) * 1e3) for p in (50, 99)})
    proof.saw(answer_max_ms=float(seconds.max() * 1e3))
    assert not failed, failed[:3]
    assert {("baseline", "1"), *seen} == set(identities)
    known = {identity: expected(model, stack.rows) for identity, (_, model) in models.items()}
    found, wanted = [], []
    for asked, identity in zip(all_asked, identities, strict=True):
        answer = msgspec.json.decode(asked.answer)
        assert identity is not None
        found.append((answer["scores"], answer["intervals"], answer["missing"]))
        wanted.append(tuple([part] for part in known[identity][asked.row]))
    proof.equal(found, wanted, "answers and the models they name")


def check_predictions(stack: Stack, models: dict[Identity, tuple[str, ServedModel]], proof: Proof) -> None:
    """Check that each record equals the output of the model named in the record, with true facts about the model.

    A model that serves for two minutes of the replay begins to adapt: score and interval follow the published scale.
    """
    records = stack.predictions()
    assert {(row["model_variant"], row["version"]) for row in records} > {("baseline", "1")}
    wanted: dict[int, tuple[Any, ...]] = {}
    for identity, (_, model) in models.items():
        places = [i for i, row in enumerate(records) if (row["model_variant"], row["version"]) == identity]
        if not places:
            continue
        rows = [records[i] for i in places]
        for place, row, (score, interval, missing) in zip(places, rows, expected(model, rows), strict=True):
            assert row["judged_horizons"] < OWN_INTERVAL_HORIZONS, "the replay is too long: intervals have offsets"
            root = math.sqrt(row["weighted_sum"] / row["weight"])
            in_sample = to_datetime(row["event_time"]) <= model.train_end
            ends = [end * root for end in interval]
            wanted[place] = (score, score * root, ends, missing, model.digest, in_sample)
    names = "raw_score", "score", "interval", "missing", "digest", "in_sample"
    found = [tuple(row[name] for name in names) for row in records]
    proof.saw(forecasts=len(records))
    proof.equal(found, [wanted[i] for i in range(len(records))], "forecasts and the models they name")
    ids = [row["trade_id"] for row in records]
    assert ids == sorted(set(ids)), "each trade has one forecast"
