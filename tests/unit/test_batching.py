"""Requests that are scored together get the same answers as alone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from data.models.served import Scores, ServedModel
from data.trades import Floats
from online.http.batching import Batching
from tests.models import NAN, SPEC, model_bytes

FULL = [50.0, 1e-5, 2e-4, 2.5e-7]
CONTRACT = [50.0, 1e-5, 2e-4, NAN]


@dataclass
class Counted:
    """A model that notes the number of rows of each run, and fails on demand."""

    model: ServedModel
    runs: list[int] = field(default_factory=list)
    fails: bool = False

    def score(self, values: Floats) -> Scores:
        self.runs.append(len(values))
        if self.fails:
            raise RuntimeError("a bug")
        return self.model.score(values)


@pytest.fixture
def counted() -> Counted:
    return Counted(ServedModel.load(model_bytes(), spec_id=SPEC.spec_id))


def ask(*requests: tuple[Any, list[list[float]]]) -> list[Any]:
    """Ask all questions at once; return answers and errors."""

    async def all_of_them() -> list[Any]:
        batching = Batching()
        waiting = (batching.score(model, np.array(rows)) for model, rows in requests)
        return await asyncio.gather(*waiting, return_exceptions=True)

    return asyncio.run(all_of_them())


def test_one_run_answers_all_that_are_at_hand_each_with_its_own(counted: Counted) -> None:
    """Full: sqrt(4 * 2.5e-7). Contract: sqrt(sqrt(100 * 0.0002^2 * 1e-6)), see `tests.models`."""
    found = ask((counted, [FULL]), (counted, [CONTRACT, FULL, CONTRACT]), (counted, [CONTRACT]))
    assert counted.runs == [5]
    full, contract = 1e-3, 2e-6**0.5
    expected = [[full], [contract, full, contract], [contract]]
    for scores, wanted in zip(found, expected, strict=True):
        assert scores.score.tolist() == pytest.approx(wanted, rel=1e-6)
        assert (scores.lower < scores.score).all()
        assert (scores.score < scores.upper).all()
    assert [scores.missing[:, 3].tolist() for scores in found] == [[False], [True, False, True], [True]]


def test_one_run_waits_for_who_comes_meanwhile_but_not_for_more_rows_than_a_run_has(counted: Counted) -> None:
    """Each request comes a turn of the event loop after the last. A run has 128 rows: request 3 fills the first run."""

    async def ask_in_turns(*counts: int) -> None:
        batching, waiting = Batching(), []
        for count in counts:
            waiting.append(asyncio.ensure_future(batching.score(counted, np.array([FULL] * count))))  # type: ignore[arg-type]
            await asyncio.sleep(0)
        await asyncio.gather(*waiting)

    asyncio.run(ask_in_turns(1, 1, 126, 2, 3))
    assert counted.runs == [128, 5]


def test_each_is_answered_by_the_model_that_it_asked(counted: Counted) -> None:
    other = Counted(counted.model)
    ask((counted, [FULL]), (other, [FULL, FULL]), (counted, [FULL]))
    assert (counted.runs, other.runs) == ([2], [2])


def test_a_failure_is_told_to_all_who_asked_that_model_and_to_nobody_else(counted: Counted) -> None:
    bad = Counted(counted.model, fails=True)
    first, good, second = ask((bad, [FULL]), (counted, [FULL]), (bad, [FULL]))
    assert (str(first), str(second)) == ("a bug", "a bug")
    assert good.score.tolist() == pytest.approx([1e-3], rel=1e-6)


def test_who_went_away_is_not_scored_and_the_next_are(counted: Counted) -> None:
    async def ask_and_go() -> Scores:
        batching = Batching()
        gone = asyncio.create_task(batching.score(counted, np.array([FULL])))  # type: ignore[arg-type]
        stays = asyncio.create_task(batching.score(counted, np.array([CONTRACT])))  # type: ignore[arg-type]
        asyncio.get_running_loop().call_soon(gone.cancel)  # when both have asked, before they are answered
        found = await stays
        assert gone.cancelled()
        await batching.score(counted, np.array([FULL, FULL]))  # type: ignore[arg-type]
        return found

    assert asyncio.run(ask_and_go()).score.tolist() == pytest.approx([2e-6**0.5], rel=1e-6)
    assert counted.runs == [1, 2]
