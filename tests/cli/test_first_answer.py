"""What a started process loads before its first answer, and that the rest comes in time."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from server.app import build_app, build_late_app, open_deployment
from server.runtime.deferred_app import DeferredApp, LatePart
from server.settings import load_settings
from tests.support.harness import serving
from tests.support.processes import ROOT
from tests.support.rooms.oauth_world import listening_socket

_LOADED = """
import json, sys, token_vault
sys.argv = ["token-vault", *{words}]
try:
    token_vault.main()
except SystemExit:
    pass
print(json.dumps([name for name in sys.modules if name.startswith("server.commands.")]))
"""


async def loaded(words: Sequence[str]) -> set[str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _LOADED.format(words=list(words))), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    return {name.rpartition(".")[2] for name in json.loads(out.decode().splitlines()[-1])}


async def test_commands_that_are_waited_for_load_no_other_command() -> None:
    few, all_of_them = await asyncio.gather(loaded(["serve", "--help"]), loaded(["users", "--help"]))
    assert few == {"serve", "stdio"}
    assert {"serve", "stdio", "users", "doctor"} <= all_of_them


@pytest.fixture(params=[build_app, build_late_app])
async def url(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncGenerator[str]:
    """A vault that has had no request yet."""
    listening = listening_socket()
    port = listening.getsockname()[1]
    settings = load_settings(overrides={"server": {"port": port}})
    async with (
        open_deployment(settings, data=tmp_path / "data") as deployment,
        serving(request.param(deployment), listening),
    ):
        yield f"http://localhost:{port}"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/sign-in", 303),
        ("GET", "/nothing", 404),
        ("DELETE", "/sign-in", 405),
        ("POST", "/token", 400),
        ("POST", "/token/", 400),
        ("GET", "/.well-known/oauth-authorization-server", 200),
        ("GET", "/proxy/no-connection/web/x", 401),
        ("POST", "/mcp", 401),
    ],
)
async def test_whatever_comes_first_is_answered(url: str, method: str, path: str, status: int) -> None:
    async with httpx2.AsyncClient(trust_env=False) as http:
        assert (await http.request(method, url + path)).status_code == status
        assert (await http.get(f"{url}/static/portal.css")).status_code == 200


async def test_a_late_part_is_made_once_for_all_who_wait() -> None:
    made: list[Starlette] = []

    def make() -> Starlette:
        made.append(Starlette(routes=[Route("/", PlainTextResponse("late"))]))
        return made[-1]

    listening = listening_socket()
    late = LatePart(make, modules=["json"])
    app = Starlette()
    app.router.default = late
    async with serving(app, listening), httpx2.AsyncClient(trust_env=False) as http:
        assert made == []
        there = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        answers = await asyncio.gather(*(http.get(there) for _ in range(5)))
    assert [answer.text for answer in answers] == ["late"] * 5
    assert len(made) == 1


class Counted:
    """An application with a lifespan; counts what happened to it."""

    def __init__(self) -> None:
        self.begun = self.ended = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            self.begun += 1
            scope["state"]["who"] = "late"
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.ended += 1
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await PlainTextResponse(scope["state"]["who"])(scope, receive, send)


async def test_an_application_is_loaded_behind_a_listener_that_already_answers() -> None:
    app, loaded = Counted(), asyncio.Event()
    at_once = {"/healthz": PlainTextResponse("here")}
    deferred = DeferredApp(lambda: loaded.set() or app, modules=["json"], at_once=at_once)
    listening = listening_socket()
    there = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with serving(deferred, listening), httpx2.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{there}/healthz")).text == "here"
        assert not loaded.is_set()
        await deferred.load()
        assert [(await http.get(there + path)).text for path in ("/healthz", "/")] == ["late", "late"]
        assert (app.begun, app.ended) == (1, 0)
    assert (app.begun, app.ended) == (1, 1)


async def test_an_application_that_nobody_served_ends_too() -> None:
    app = Counted()
    deferred = DeferredApp(lambda: app, modules=[], at_once={})
    await deferred.load()
    await deferred.end()
    await deferred.end()
    assert (app.begun, app.ended) == (1, 1)


async def test_what_keeps_an_application_from_loading_is_raised() -> None:
    deferred = DeferredApp(Counted, modules=["server.no_such_module"], at_once={})
    with pytest.raises(ModuleNotFoundError):
        await deferred.load()
