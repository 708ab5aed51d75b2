"""Raise at the n-th await of one request: in the request itself or in a task that it started.

An await counts only if it really waits. Tasks that the request starts are included, such as a refresh that no caller
can cancel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any


@dataclass
class Plan:
    """What to raise at which await; `seen` counts awaits, and `where` is the function that waited there."""

    at: int
    error: Callable[[], BaseException]
    seen: int = 0
    where: str = ""


_PLAN: ContextVar[Plan | None] = ContextVar("plan", default=None)
_REQUEST = "run_asgi"  # uvicorn's coroutine of one request


class _Steps(Coroutine[Any, Any, Any]):
    """Runs a coroutine step by step."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], plan: Plan) -> None:
        self._coroutine = coroutine
        self._plan = plan

    def __await__(self) -> Generator[Any, Any, Any]:
        raise TypeError("only a task runs this")

    def send(self, value: object) -> object:
        return self._count(self._coroutine.send(value))

    def throw(self, *error: Any) -> object:
        return self._count(self._coroutine.throw(*error))

    def close(self) -> None:
        self._coroutine.close()

    def _count(self, waited: object) -> object:
        self._plan.seen += 1
        if self._plan.seen != self._plan.at:
            return waited
        self._plan.where = _innermost(self._coroutine)
        if isinstance(waited, asyncio.Future):
            waited._asyncio_future_blocking = False
        return self._coroutine.throw(self._plan.error())


def _innermost(coroutine: object) -> str:
    name = ""
    while coroutine is not None:
        code = getattr(coroutine, "cr_code", None) or getattr(coroutine, "gi_code", None)
        name = name if code is None else f"{code.co_filename.rpartition('/')[2]}:{code.co_name}"
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return name


class Injector:
    """The task factory of an event loop. Without a plan, it changes nothing."""

    def __init__(self) -> None:
        self._next: Plan | None = None

    def next_request(self, at: int, error: Callable[[], BaseException]) -> Plan:
        """Plan to raise at this await of the next request in this process."""
        self._next = Plan(at, error)
        return self._next

    def _make(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        plan = _PLAN.get()
        if plan is None and self._next is not None and getattr(coroutine, "__name__", "") == _REQUEST:
            plan, self._next = self._next, None
            context = options.setdefault("context", copy_context())
            context.run(_PLAN.set, plan)
        if plan is not None:
            coroutine = _Steps(coroutine, plan)
        return asyncio.Task(coroutine, loop=loop, **options)

    @contextmanager
    def install(self) -> Generator[Injector]:
        """Create the running loop's tasks until the block ends."""
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()
        loop.set_task_factory(self._make)
        try:
            yield self
        finally:
            loop.set_task_factory(before)
