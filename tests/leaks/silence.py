"""Raise an error at each await of a request, and search everything that is output."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import httpx2

from tests.conftest import Store
from tests.leaks.flows import FLOWS, Prepare
from tests.leaks.injector import Injector
from tests.leaks.server_files import ServerFiles
from tests.leaks.watch import Watch

MOST = 150  # awaits of one request
_FIRST_REQUEST = "deferred_app.py:load"  # no later request waits here
ERRORS: dict[str, Callable[[], BaseException]] = {
    "defect": lambda: RuntimeError("injected"),
    "socket": lambda: OSError(104, "injected"),
    "time-out": lambda: TimeoutError("injected"),
    "cancelled": lambda: asyncio.CancelledError("injected"),
}


async def fail_everywhere(
    prepare: Prepare, injector: Injector, error: Callable[[], BaseException], *, step: int
) -> list[str]:
    """Raise at every `step`-th await until a request has none left; return where it was raised."""
    raised: list[str] = []
    at = 1
    while at < MOST:
        act = await prepare()
        plan = injector.next_request(at, error)
        with suppress(httpx2.HTTPError):  # an answer that was cut off
            async with asyncio.timeout(60):
                await act()
        if not plan.where:
            plan.at = 0  # a task that continues may still wait
            return raised
        raised.append(plan.where)
        at += 0 if plan.where == _FIRST_REQUEST else step
    raise AssertionError("there are more awaits than expected")


async def check_silence(store: Store, flow: str, error: str, *, step: int, server: ServerFiles | None = None) -> None:
    """Check that nothing leaks wherever it fails, and that the same request succeeds without failures.

    `server`: the files of the server that has the store; without it, a server's files aren't searched.
    """
    watch = Watch(includes_keys=True)
    if server is not None:
        watch.servers.append(server)
    with watch.install(), watch.watch_logs(), Injector().install() as injector:
        async with FLOWS[flow](store) as prepare:
            watch.watch_reprs()
            raised = await fail_everywhere(prepare, injector, ERRORS[error], step=step)
            assert len(raised) >= 2, raised
            assert (await (await prepare())()).status_code < 400
            assert not watch.look([store.data])
    assert len(watch.canaries) > 10
    assert all(watch.looked_at[place] for place in ("log", "repr", "answer"))
    assert watch.looked_at["file"] > 0 or not store.is_sqlite
    assert watch.looked_at["PostgreSQL's log"] > 0 or server is None
