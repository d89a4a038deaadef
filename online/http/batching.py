"""Score all waiting requests in one run of the model."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import numpy as np

from data.models.served import CHUNK, Scores, ServedModel
from data.trades import Floats


class _Asked(NamedTuple):
    model: ServedModel
    values: Floats
    answer: asyncio.Future[Scores]


class Batching:
    """Score the rows of all waiting requests in one run of the model, in the first turn of the event loop without a new
    request.

    A run costs the same for 1 row and for 128, and a score is the same in any batch: eight clients cost no more than a
    single client, and a request waits only for a look at the other requests. For one event loop.
    """

    def __init__(self) -> None:
        self._asked: list[_Asked] = []
        self._rows = 0

    async def score(self, model: ServedModel, values: Floats) -> Scores:
        """Return the forecasts for rows of features, see `ServedModel.score`.

        Args:
            values: shape (n, k), the model's columns, NaN where a value is missing.
        """
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._answer_unless_more_come, loop, 0)
        answer: asyncio.Future[Scores] = loop.create_future()
        self._asked.append(_Asked(model, values, answer))
        self._rows += len(values)
        return await answer

    def _answer_unless_more_come(self, loop: asyncio.AbstractEventLoop, rows: int) -> None:
        if rows < self._rows < CHUNK:
            loop.call_soon(self._answer_unless_more_come, loop, self._rows)  # behind the requests of this turn
        else:
            self._answer()

    def _answer(self) -> None:
        asked = [one for one in self._asked if not one.answer.done()]  # an answer is done if the client went away
        self._asked, self._rows = [], 0
        for model in {id(one.model): one.model for one in asked}.values():  # two models if a new model has just come
            mine = [one for one in asked if one.model is model]
            try:
                found = model.score(np.concatenate([one.values for one in mine]))
            except Exception as error:  # of any kind: each waiting request needs an answer
                for one in mine:
                    one.answer.set_exception(error)
                continue
            start = 0
            for one in mine:
                end = start + len(one.values)
                one.answer.set_result(found.take(slice(start, end)))
                start = end
