"""One run of the model for all requests that are at hand."""

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
    """Scores what all requests ask in one run of the model, in the first turn of the event loop that brings no more.

    A run costs the same for 1 row and for 128, and a score is the same in any batch: eight clients are answered for the
    price of one, and nobody waits but for a look at who else is there. For one event loop.
    """

    def __init__(self) -> None:
        self._asked: list[_Asked] = []
        self._rows = 0

    async def score(self, model: ServedModel, values: Floats) -> Scores:
        """Return the forecasts for rows of features, see `ServedModel.score`."""
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._answer_unless_more_come, loop, 0)
        answer: asyncio.Future[Scores] = loop.create_future()
        self._asked.append(_Asked(model, values, answer))
        self._rows += len(values)
        return await answer

    def _answer_unless_more_come(self, loop: asyncio.AbstractEventLoop, rows: int) -> None:
        if rows < self._rows < CHUNK:
            loop.call_soon(self._answer_unless_more_come, loop, self._rows)  # behind the requests that come meanwhile
        else:
            self._answer()

    def _answer(self) -> None:
        asked = [one for one in self._asked if not one.answer.done()]  # it is where the client went away
        self._asked, self._rows = [], 0
        for model in {id(one.model): one.model for one in asked}.values():  # two where a new model has just come
            mine = [one for one in asked if one.model is model]
            try:
                found = model.score(np.concatenate([one.values for one in mine]))
            except Exception as error:  # whoever asked must be told, whatever it is
                for one in mine:
                    one.answer.set_exception(error)
                continue
            start = 0
            for one in mine:
                end = start + len(one.values)
                one.answer.set_result(found.take(slice(start, end)))
                start = end
