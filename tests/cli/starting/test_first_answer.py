"""What a started process loads before its first answer, and that the rest loads in time."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from importlib.metadata import distribution, version
from pathlib import Path
from shutil import copytree, which

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import server.app
from server.app import build_app, build_late_app, open_deployment
from server.runtime import lean_sdk
from server.runtime.deferred_app import DeferredApp, LatePart
from server.settings import load_settings
from tests.conftest import unavailable
from tests.support.harness import serve_app
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


async def last_line_of(code: str) -> str:
    """Run the code in its own process; return the last line that it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    async with asyncio.timeout(90):  # enough for a busy machine
        out, _ = await process.communicate()
    return out.decode().splitlines()[-1]


async def modules_loaded_by(words: Sequence[str]) -> set[str]:
    found: list[str] = json.loads(await last_line_of(_LOADED.format(words=list(words))))
    return {name.rpartition(".")[2] for name in found}


async def test_commands_that_are_waited_for_load_no_other_command() -> None:
    few, all_of_them = await asyncio.gather(
        modules_loaded_by(["serve", "--help"]), modules_loaded_by(["users", "--help"])
    )
    assert few == {"serve", "stdio"}
    assert {"serve", "stdio", "users", "doctor"} <= all_of_them


_USED = """
import sys
from server.runtime import lean_sdk
lean_sdk.TRIED = {tried!r}
lean_sdk.load_lean()
import mcp.server.sse, server.mcp.transports, server.stdio, server.bridge.relay
unused = [name for name in ("mcp.client.client", "mcp.server.mcpserver") if name in sys.modules]
from mcp import Client, types
from mcp.server import MCPServer
from mcp_types import methods
assert mcp.server.MCPServer is MCPServer and types.Tool and not hasattr(mcp, "nothing")
methods.parse_client_request("tools/list", "2025-11-25", None)
print(unused)
"""


async def test_a_waited_for_program_loads_of_the_sdk_what_it_uses_and_the_rest_when_it_is_asked_for() -> None:
    assert version("mcp").startswith(lean_sdk.TRIED), "try its modules one by one, then set TRIED"
    lean, whole = await asyncio.gather(*(last_line_of(_USED.format(tried=tried)) for tried in (lean_sdk.TRIED, "0.")))
    assert lean == "[]"
    assert whole == "['mcp.client.client', 'mcp.server.mcpserver']"


_PATCH = ROOT / "docs/development/upstream/mcp-late-imports.patch"
_PATCHED = """
import sys
import mcp.server.lowlevel, mcp.server.streamable_http_manager
unused = [name for name in ("mcp.client.client", "mcp.server.mcpserver") if name in sys.modules]
from mcp import *
from mcp.client import *
from mcp.server import *
from mcp_types import methods
assert mcp.Client is mcp.client.Client and mcp.server.MCPServer is MCPServer and mcp.client.stdio and mcp.types.Tool
assert not hasattr(mcp, "nothing")
methods.parse_client_request("tools/list", "2025-11-25", None)
print(mcp.__file__, unused)
"""


@pytest.mark.parametrize(("is_patched", "unused"), [(True, []), (False, ["mcp.client.client", "mcp.server.mcpserver"])])
async def test_the_patch_for_the_sdk_applies_and_does_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_patched: bool, unused: list[str]
) -> None:
    for name in ("mcp", "mcp_types"):
        copytree(str(distribution("mcp").locate_file(name)), tmp_path / name)
    if is_patched:
        if which("git") is None:
            unavailable("git isn't installed")
        subprocess.run(["git", "apply", str(_PATCH)], cwd=tmp_path, check=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert await last_line_of(_PATCHED) == f"{tmp_path}/mcp/__init__.py {unused}"


@pytest.fixture(params=[build_app, build_late_app])
async def url(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncGenerator[str]:
    """A vault before its first request."""
    listening = listening_socket()
    port = listening.getsockname()[1]
    settings = load_settings(overrides={"server": {"port": port}})
    async with (
        open_deployment(settings, data=tmp_path / "data") as deployment,
        serve_app(request.param(deployment), listening),
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
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        assert (await http.request(method, url + path)).status_code == status
        assert (await http.get(f"{url}/static/portal.css")).status_code == 200


async def test_a_client_without_a_token_is_asked_to_sign_in_before_the_application_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    monkeypatch.setattr(server.app, "build_app", lambda deployment: built.append("app") or build_app(deployment))
    listening = listening_socket()
    settings = load_settings(overrides={"server": {"port": listening.getsockname()[1]}})
    async with (
        open_deployment(settings, data=tmp_path / "data") as deployment,
        serve_app(build_late_app(deployment), listening),
        httpx2.AsyncClient(trust_env=False, base_url=deployment.public_url, timeout=30) as http,
    ):
        paths = ("/mcp", "/mcp/", "/sse", "/sse/")
        early = [(await http.request(method, path)) for path in paths for method in ("GET", "POST")]
        assert {answer.status_code for answer in early} == {401}
        assert built == []
        twin = await http.post("/mcp", headers={"Authorization": "Bearer no-token"})
        assert (twin.status_code, built) == (401, ["app"])
        late = [(await http.request(method, path)) for path in paths for method in ("GET", "POST")]
        told = [[(one.headers["www-authenticate"], one.json()["message"]) for one in some] for some in (early, late)]
        assert told[0] == told[1]


async def test_a_late_part_is_made_once_for_all_who_wait() -> None:
    made: list[Starlette] = []

    def make() -> Starlette:
        made.append(Starlette(routes=[Route("/", PlainTextResponse("late"))]))
        return made[-1]

    listening = listening_socket()
    late = LatePart(make, modules=["json"])
    app = Starlette()
    app.router.default = late
    async with serve_app(app, listening), httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        assert made == []
        there = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        answers = await asyncio.gather(*(http.get(there) for _ in range(5)))
    assert [answer.text for answer in answers] == ["late"] * 5
    assert len(made) == 1


class CountingApplication:
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
    app, loaded = CountingApplication(), asyncio.Event()
    here = PlainTextResponse("here")

    def at_once(scope: Scope) -> ASGIApp | None:
        return here if scope["path"] == "/healthz" else None

    deferred = DeferredApp(lambda: loaded.set() or app, modules=["json"], at_once=at_once)
    listening = listening_socket()
    there = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with serve_app(deferred, listening), httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        assert (await http.get(f"{there}/healthz")).text == "here"
        assert not loaded.is_set()
        await deferred.load()
        assert [(await http.get(there + path)).text for path in ("/healthz", "/")] == ["late", "late"]
        assert (app.begun, app.ended) == (1, 0)
    assert (app.begun, app.ended) == (1, 1)


async def test_an_application_that_nobody_served_ends_too() -> None:
    app = CountingApplication()
    deferred = DeferredApp(lambda: app, modules=[], at_once=lambda _: None)
    await deferred.load()
    await deferred.end()
    await deferred.end()
    assert (app.begun, app.ended) == (1, 1)


async def test_what_keeps_an_application_from_loading_is_raised() -> None:
    deferred = DeferredApp(CountingApplication, modules=["server.no_such_module"], at_once=lambda _: None)
    with pytest.raises(ModuleNotFoundError):
        await deferred.load()
