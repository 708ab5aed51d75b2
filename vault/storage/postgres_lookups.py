"""Lookups of several callers in one message. Most of the cost of a lookup for this process is the round trip to the
server. Lookups in the same round of the event loop share it: one message runs the statement once for each caller. No
caller waits for others.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from functools import lru_cache
from typing import Final

from vault.refusals import StorageBusy, VaultError
from vault.storage.database import Row, Value, integer

TOGETHER: Final = 16  # callers per message: one server process answers them in turn
_WHOSE: Final = "asked_by"  # the column with the number of the row's caller, from 0
_PLACES: Final = re.compile(r"\$(\d+)")

Values = Sequence[Value]
Rows = Sequence[Row]
_Caller = tuple[Values, "asyncio.Future[Rows | None]"]  # None: ask separately


class LookUps:
    """The lookups of one database.

    `ask` runs PostgreSQL's SQL with one caller's values, `ask_many` with those of several and returns all rows. Both
    raise a refusal.
    """

    def __init__(
        self,
        ask: Callable[[str, Values], Awaitable[Rows]],
        ask_many: Callable[[str, Sequence[Values]], Awaitable[Rows]],
    ) -> None:
        self._ask = ask
        self._ask_many = ask_many
        self._waiting: dict[str, list[_Caller]] = {}  # by SQL, until the next round
        self._tasks: set[asyncio.Task[None]] = set()

    async def find(self, query: str, values: Values) -> Rows:
        """The rows that the query finds with these values."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Rows | None] = loop.create_future()
        callers = self._waiting.get(query)
        if callers is None:
            self._waiting[query] = callers = []
            loop.call_soon(self._send, query, context=Context())
        callers.append((values, answer))
        rows = await answer
        return [dict(row) for row in await self._ask(query, values)] if rows is None else rows

    def _send(self, query: str) -> None:
        callers = [caller for caller in self._waiting.pop(query) if not caller[1].done()]  # the others were cancelled
        for start in range(0, len(callers), TOGETHER):
            some = callers[start : start + TOGETHER]
            if len(some) == 1:
                _let_ask_alone(some)
                continue
            task = asyncio.get_running_loop().create_task(self._answer(query, some), context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, query: str, callers: Sequence[_Caller]) -> None:
        """Give each caller its rows. A caller whose values no column can hold doesn't affect the others."""
        asked = [(*values, place) for place, (values, _) in enumerate(callers)]
        found: list[list[Row]] = [[] for _ in callers]
        try:
            for record in await self._ask_many(mark_caller(query), asked):
                row = dict(record)
                found[integer(row, _WHOSE)].append(row)
                del row[_WHOSE]
            for rows, (_, answer) in zip(found, callers, strict=True):
                if not answer.done():
                    answer.set_result(rows)
        except StorageBusy as refused:
            for _, answer in callers:
                if not answer.done():
                    answer.set_exception(refused)
        except VaultError:
            pass
        finally:
            _let_ask_alone(callers)


def _let_ask_alone(callers: Sequence[_Caller]) -> None:
    for _, answer in callers:
        if not answer.done():
            answer.set_result(None)


@lru_cache(maxsize=256)
def mark_caller(query: str) -> str:
    """The query, with the caller's number as one more parameter and column."""
    place = len(set(_PLACES.findall(query))) + 1  # `translate` numbers them without gaps
    return f"select found.*, cast(${place} as bigint) as {_WHOSE} from ({query}) as found"  # noqa: S608 -- shared SQL
