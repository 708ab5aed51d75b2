"""ASGI applications that are loaded when their first request arrives, or earlier when there is time."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_STARTED: Final = "lifespan.startup.complete"


async def load_modules(names: Sequence[str]) -> None:
    """Import them in a thread, one by one, so that the event loop isn't blocked."""
    for name in names:
        await asyncio.to_thread(importlib.import_module, name)


class LatePart:
    """A part of an application, without a lifespan of its own: loads `modules` once, then makes it."""

    def __init__(self, make: Callable[[], ASGIApp], *, modules: Sequence[str]) -> None:
        self._make = make
        self._modules = modules
        self._loading: asyncio.Task[ASGIApp] | None = None

    async def load(self) -> ASGIApp:
        """The part; its first request waits for this as well."""
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
        return await asyncio.shield(self._loading)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = await self.load()
        await app(scope, receive, send)

    async def _load(self) -> ASGIApp:
        await load_modules(self._modules)
        return self._make()


class DeferredApp:
    """Loads `modules` in a thread, then makes the application and starts it (ASGI lifespan 2.0).

    That begins with `load`, or with the first request. Until then `at_once` says who can answer a request without it;
    every other request waits.
    """

    def __init__(
        self, make: Callable[[], ASGIApp], *, modules: Sequence[str], at_once: Callable[[Scope], ASGIApp | None]
    ) -> None:
        self._make = make
        self._modules = modules
        self._at_once = at_once
        self._starting: asyncio.Task[_RunningApp] | None = None
        self._started: _RunningApp | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """After loading, this adds no stack frame to a call."""
        if scope["type"] == "lifespan":
            return self._live(receive, send)
        if self._started is not None:
            return self._started(scope, receive, send)
        if (app := self._at_once(scope)) is not None:
            return app(scope, receive, send)
        return self._answer_late(scope, receive, send)

    async def load(self) -> None:
        """Wait until the application is started. Raises the exception that prevents it."""
        await self._load()

    async def end(self) -> None:
        """Shut down the application if it is running, even if no server ever started it."""
        starting, self._starting, self._started = self._starting, None, None
        if starting is not None:
            await (await starting).end()

    async def _load(self) -> _RunningApp:
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        return await asyncio.shield(self._starting)

    async def _answer_late(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = await self._load()
        await started(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": _STARTED})
        await receive()
        await self.end()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> _RunningApp:
        await load_modules(self._modules)
        started = _RunningApp(self._make())
        await started.begin()
        self._started = started
        return started


class _RunningApp:
    """The application while it lives."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._state: MutableMapping[str, object] = {}
        self._told: asyncio.Queue[Message] = asyncio.Queue()
        self._said: asyncio.Queue[Message] = asyncio.Queue()
        self._living: asyncio.Task[None] | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope.setdefault("state", {}).update(self._state)
        return self._app(scope, receive, send)

    async def begin(self) -> None:
        """Start it. Raises RuntimeError if it refuses."""
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        self._living = asyncio.create_task(self._live(scope))
        await self._tell("lifespan.startup")

    async def end(self) -> None:
        """Shut it down."""
        await self._tell("lifespan.shutdown")
        if self._living is not None:
            await self._living

    async def _live(self, scope: Scope) -> None:
        await self._app(scope, self._told.get, self._said.put)

    async def _tell(self, what: str) -> None:
        await self._told.put({"type": what})
        answer = await self._said.get()
        if answer["type"] != f"{what}.complete":
            raise RuntimeError(f"the application failed at {what}")
