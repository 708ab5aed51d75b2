"""The examples in docs/guides/examples, run unchanged: third-party SDKs at the vault, against the sandbox."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from playwright.async_api import Browser, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from tests.generating.documentation import DOCS
from tests.support.chromium import PAGE_PATIENCE, running_chromium
from tests.support.foreign.foreign import FOLDER, node
from tests.support.harness import PASSWORD, free_socket, running_vault, serve_app
from tests.support.rooms.exchange_room import SECRET, Caller, ExchangeRoom
from tests.support.rooms.mcp_room import Agent, Room
from tests.support.rooms.proxy_room import HOUR, ProxyHandle, issue
from tests.support.services import running_services
from tests.support.simulator_apps import family_settings

EXAMPLES = DOCS / "guides" / "examples"
CHANNEL = "C0SBGENERAL"
PATIENCE = 60.0  # seconds for one example
CALENDAR = "https://www.googleapis.com/auth/calendar.events"
SLACK = frozenset({"chat:write", "channels:read"})
POSTING = frozenset({"chat:write"})
HANDLES = {"default": "proxy"}  # what `clients add --release proxy` stores
GITHUB = frozenset({"metadata:read", "issues:write", "pull_requests:write"})


def example(name: str) -> str:
    """The code of an example, as a reader would copy it."""
    return (EXAMPLES / name).read_text(encoding="utf-8")


def test_every_example_is_listed_and_run() -> None:
    files = {path.name for path in EXAMPLES.iterdir()} - {"README.md", "__pycache__"}
    runners = (Path(__file__), Path(__file__).parents[1] / "cli" / "activity" / "test_activity_proof.py")
    here = "".join(one.read_text(encoding="utf-8") for one in runners)
    listed = set(re.findall(r"\]\((\w+\.m?[jp][sy])\)", (EXAMPLES / "README.md").read_text("utf-8")))
    assert listed == files
    assert all(f'"{name}"' in here for name in files)


async def run(command: Sequence[str], *, folder: Path, **variables: str) -> str:
    """Run a program, which must succeed; return its output."""
    environment = {"HOME": str(folder), "PATH": os.environ.get("PATH", "")} | variables
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()[-3000:]
    return out.decode().strip()


async def run_python(name: str, folder: Path, **variables: str) -> str:
    program = folder / "example.py"
    program.write_text(example(name), encoding="utf-8")
    return await run([sys.executable, str(program)], folder=folder, **variables)


async def run_node(name: str, folder: Path, **variables: str) -> str:
    """Run it as a module next to the packages, where Node looks for them."""
    program = FOLDER / f"example-{secrets.token_hex(4)}.mjs"
    program.write_text(example(name), encoding="utf-8")
    try:
        return await run([node(), str(program)], folder=folder, NODE_OPTIONS="--no-warnings", **variables)
    finally:
        program.unlink()


@asynccontextmanager
async def node_backend(name: str, folder: Path, **variables: str) -> AsyncGenerator[str]:
    """Run the route handler in a server; return its URL."""
    route = folder / "route.mjs"
    route.write_text(example(name), encoding="utf-8")
    environment = {"HOME": str(folder), "PATH": os.environ.get("PATH", "")} | variables
    process = await asyncio.create_subprocess_exec(
        *(node(), str(FOLDER / "serve_route.mjs"), str(route)),
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            said = json.loads(await process.stdout.readline())
            yield f"http://127.0.0.1:{said['port']}/"
            process.stdin.close()
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def page_server(script: str, exchanging: ExchangeRoom) -> AsyncGenerator[tuple[str, Caller]]:
    """Serve a page with the script and two buttons at its own origin; yield its URL and its public client."""
    listening = free_socket()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    caller = await exchanging.caller(public=True, redirect_uris=(url,))
    constants = f'const VAULT_URL = "{exchanging.url}", CLIENT_ID = "{caller.client.id}";\n'
    page = (
        '<!doctype html><title>Page</title><button id="sign-in">In</button><button id="post">Post</button>'
        '<p id="answer"></p><script type="module">import { signIn, post } from "./page.js";\n'
        'document.querySelector("#sign-in").onclick = signIn;\n'
        f'document.querySelector("#post").onclick = async () => {{ const answer = await post("{CHANNEL}", '
        '"Hello from a page"); document.querySelector("#answer").textContent = answer.ts ?? JSON.stringify(answer); };'
        "</script>"
    )

    async def send_page(_request: Request) -> Response:
        return HTMLResponse(page)

    async def code(_request: Request) -> Response:
        return Response(constants + script, media_type="text/javascript")

    app = Starlette(routes=[Route("/", send_page), Route("/page.js", code)])
    async with serve_app(app, listening):
        yield url, caller


@pytest.fixture(scope="module")
async def browser() -> AsyncGenerator[Browser]:
    async with running_chromium() as started:
        yield started


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with running_services() as simulator:
        providers = {**simulator.settings(), "github": family_settings(simulator, "github", apis=("rest",))}
        async with running_vault(tmp_path_factory.mktemp("examples"), providers=providers) as vault:
            yield Room(vault, simulator)


async def connect_handle(place: Room, provider: str, scopes: frozenset[str], *, narrow: frozenset[str]) -> ProxyHandle:
    agent = await place.agent()
    connection = await place.connect(agent, provider, scopes=scopes)
    return await issue(place, agent, connection, scopes=narrow, lifetime=HOUR)


async def test_slack_sdk_lists_and_posts(place: Room, tmp_path: Path) -> None:
    handle = await connect_handle(place, "slack", SLACK, narrow=SLACK)
    printed = await run_python("slack_post.py", tmp_path, HANDLE=handle.value, API_BASE_URL=handle.base())
    post = place.simulator.books()["posts"][-1]
    assert (post["text"], post["ts"]) == ("Hello from my own program", printed)


async def test_googles_client_makes_and_finds_an_event(place: Room, tmp_path: Path) -> None:
    everything = CALENDAR.removesuffix(".events")
    handle = await connect_handle(place, "google", frozenset({CALENDAR, everything}), narrow=frozenset({CALENDAR}))
    api = handle.base("calendar")
    assert await run_python("google_event.py", tmp_path, HANDLE=handle.value, API_BASE_URL=api) == "True"
    assert len(place.simulator.books()["events"]) == 1
    calls = [one for one in place.simulator.books()["api_calls"] if "/calendar/" in str(one["path"])]
    assert len(calls) == 2
    # the token that arrived had only the handle's scope, not all connected scopes
    assert all(CALENDAR in one["scopes"] and everything not in one["scopes"] for one in calls)


async def test_pygithub_opens_comments_and_pages(place: Room, tmp_path: Path) -> None:
    handle = await connect_handle(place, "github", GITHUB, narrow=GITHUB)
    printed = await run_python("github_issue.py", tmp_path, HANDLE=handle.value, API_BASE_URL=handle.base("rest"))
    number, count = printed.split()
    assert int(count) >= 6
    posts = [one["text"] for one in place.simulator.books()["posts"] if one.get("face") == "github"]
    assert posts[-2:] == ["Water the roses", "Done today"]
    assert int(number) >= 6


@pytest.mark.group("node")
async def test_octokit_opens_and_pages(place: Room, tmp_path: Path) -> None:
    handle = await connect_handle(place, "github", GITHUB, narrow=GITHUB)
    printed = await run_node("github_issue.mjs", tmp_path, HANDLE=handle.value, API_BASE_URL=handle.base("rest"))
    number, count = printed.split()
    assert int(count) >= 6
    assert place.simulator.books()["posts"][-1]["text"] == "Rake the leaves"
    assert int(number) >= 6


# The exchange in third-party software


@pytest.fixture(scope="module")
async def exchange_room(place: Room) -> AsyncGenerator[ExchangeRoom]:
    async with httpx2.AsyncClient(base_url=place.url, trust_env=False, timeout=30) as http:
        yield ExchangeRoom(place, http)


def variables(exchanging: ExchangeRoom, caller: Caller, agent: Agent) -> dict[str, str]:
    return {
        "VAULT_URL": exchanging.url,
        "CLIENT_ID": caller.client.id,
        "CLIENT_SECRET": SECRET,
        "ACCESS_TOKEN": agent.token,
    }


def last_post(exchanging: ExchangeRoom) -> tuple[object, object]:
    post = exchanging.room.simulator.books()["posts"][-1]
    return post["text"], post["ts"]


async def test_a_langgraph_tool_acts_as_whoever_asks(exchange_room: ExchangeRoom, tmp_path: Path) -> None:
    caller = await exchange_room.caller(auth_method="client_secret_basic", release=HANDLES)
    agent = await exchange_room.agent(caller)
    told = await run_python("langgraph_tool.py", tmp_path, **variables(exchange_room, caller, agent))
    assert f"{exchange_room.url}/connect/" in told  # nothing is connected for this program, so the person gets a link
    await exchange_room.room.connect(agent, "slack", scopes=POSTING)  # as the link does: only what was asked for
    printed = await run_python("langgraph_tool.py", tmp_path, **variables(exchange_room, caller, agent))
    assert last_post(exchange_room) == ("Hello from a graph", printed)


@pytest.mark.group("node")
async def test_a_node_backend_exchanges_the_token_that_its_page_brings(
    exchange_room: ExchangeRoom, tmp_path: Path
) -> None:
    caller = await exchange_room.caller(auth_method="client_secret_basic", release=HANDLES)
    page = await exchange_room.caller(public=True)
    api = f"https://api-{caller.client.id.lower()[:8].strip('-_')}.example"
    await exchange_room.link(caller, api)
    backend = await exchange_room.agent(caller)
    await exchange_room.room.connect(backend, "slack", scopes=POSTING)
    person = await exchange_room.agent(page, audience=api, scopes=frozenset({"exchange"}))
    async with node_backend("backend_route.mjs", tmp_path, **variables(exchange_room, caller, backend)) as url:
        message = {"channel": CHANNEL, "text": "Hello from a backend"}
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
            posted = await http.post(url, json=message, headers=person.headers)
            refused = await http.post(url, json=message, headers={"authorization": "Bearer nobody"})
    assert last_post(exchange_room) == ("Hello from a backend", posted.json()["ts"])
    assert refused.status_code == 403


@pytest.mark.group("node")
async def test_oauth4webapi_gets_a_handle_bound_to_its_key(exchange_room: ExchangeRoom, tmp_path: Path) -> None:
    caller = await exchange_room.caller(auth_method="client_secret_basic", release=HANDLES)
    agent = await exchange_room.agent(caller)
    await exchange_room.room.connect(agent, "slack", scopes=POSTING)
    printed = await run_node("dpop.mjs", tmp_path, **variables(exchange_room, caller, agent))
    kind, ts = printed.split()
    assert (kind.lower(), last_post(exchange_room)) == ("dpop", ("Hello with a key", ts))


@pytest.mark.group("browser")
async def test_a_browser_page_signs_in_and_calls_with_a_key_of_its_own(
    exchange_room: ExchangeRoom, browser: Browser
) -> None:
    async with page_server(example("browser_page.mjs"), exchange_room) as (url, caller):
        await exchange_room.slack(await exchange_room.agent(caller))
        context = await browser.new_context()
        context.set_default_timeout(PAGE_PATIENCE)
        tab = await context.new_page()
        await tab.goto(url)
        await tab.click("#sign-in")
        await tab.fill("[name=name]", "alice")
        await tab.fill("[name=password]", PASSWORD)
        await tab.press("[name=password]", "Enter")
        await tab.click("button[value=allow]")
        await tab.wait_for_url(f"{url}?**")
        await tab.click("#post")
        await expect(tab.locator("#answer")).to_have_text(re.compile(r"^\d+\.\d+$"))
        assert last_post(exchange_room) == ("Hello from a page", await tab.locator("#answer").inner_text())
        await context.close()
