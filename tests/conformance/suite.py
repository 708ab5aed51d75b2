"""Start a vault with the fixture tools, add a bearer token to every request, and run scenarios of the suite."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2
from starlette.types import ASGIApp, Receive, Scope, Send

from providers.simulator.local_server import running_simulator
from server.app import build_app
from tests.conformance.fixture_tools import SCOPES, TOOLS
from tests.support.foreign.foreign import MODULES, environment, node
from tests.support.harness import PASSWORD, free_socket, running_vault, serve_app
from tests.support.person import Person
from tests.support.processes import free_port
from tests.support.rooms.mcp_room import Room

PACKAGE: Final = MODULES / "@modelcontextprotocol" / "conformance"
REVISIONS: Final = ("2025-11-25", "2026-07-28")
_PATIENCE: Final = 60.0  # seconds for one scenario
_LISTED: Final = re.compile(r"^  - (\S+) \[(.+)\]$", re.MULTILINE)
_URL: Final = re.compile(r"^https?://\S+/authorize\?\S+$", re.MULTILINE)


@dataclass(frozen=True)
class Check:
    """One check of one scenario, as the suite reports it."""

    scenario: str
    revision: str
    name: str
    status: str  # SUCCESS | FAILURE | WARNING | SKIPPED | INFO
    message: str


def version() -> str:
    """The version of the suite."""
    return json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))["version"]


def program() -> str:
    """The path of the suite's program."""
    return str(PACKAGE / "dist" / "index.js")


def list_scenarios() -> Mapping[str, Sequence[str]]:
    """The server scenarios of the suite, with the revisions that each belongs to."""
    said = subprocess.run([node(), program(), "list", "--server"], capture_output=True, text=True, check=True).stdout
    return {name: revisions.split(",") for name, revisions in _LISTED.findall(said)}


def with_token(app: ASGIApp, token: str) -> ASGIApp:
    """Add a token to each request that has none, because the suite sends no tokens."""

    async def shim(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not any(name == b"authorization" for name, _ in scope["headers"]):
            scope = {**scope, "headers": [*scope["headers"], (b"authorization", f"Bearer {token}".encode())]}
        await app(scope, receive, send)

    return shim


@asynccontextmanager
async def place(folder: Path) -> AsyncGenerator[tuple[Room, str]]:
    """The vault, and the address of its MCP endpoint behind the shim."""
    listening = free_socket()
    origin = f"http://localhost:{listening.getsockname()[1]}"
    allowed: dict[str, object] = {"server": {"allowed_origins": [origin]}}
    async with (
        running_simulator() as simulator,
        running_vault(folder / "data", providers=simulator.settings(), more_tools=TOOLS, overrides=allowed) as vault,
    ):
        room = Room(vault, simulator)
        agent = await room.agent()
        await room.connect(agent, "slack", scopes=frozenset(SCOPES))
        async with serve_app(with_token(build_app(vault.deployment), agent.token), listening):
            yield room, f"{origin}/mcp"


async def run_server(url: str, scenario: str, revision: str, *, folder: Path) -> Sequence[Check]:
    """Run a server scenario in a protocol revision; return its checks."""
    options = ("--url", url, "--scenario", scenario, "--spec-version", revision, "-o", str(folder))
    return await _run("server", *options, scenario=scenario, revision=revision, folder=folder)


async def run_authorization(room: Room, revision: str, *, folder: Path) -> Sequence[Check]:
    """Run the authorization scenarios; alice signs in and consents where the suite asks a person to."""
    port = free_port()
    client = await room.vault.register(redirect_uris=[f"http://127.0.0.1:{port}/callback"])
    options = ["--url", room.url, "--client-id", str(client["client_id"]), "--resource", f"{room.url}/mcp"]
    options += ["-p", str(port), "--spec-version", revision, "-o", str(folder)]
    async with room.vault.person() as person:
        return await _run(
            "authorization",
            *options,
            scenario="authorization",
            revision=revision,
            folder=folder,
            person=person,
        )


async def _run(
    *arguments: str, scenario: str, revision: str, folder: Path, person: Person | None = None
) -> Sequence[Check]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    process = await asyncio.create_subprocess_exec(
        node(), program(), *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env=environment(folder), cwd=folder,
    )  # fmt: skip
    assert process.stdout is not None
    said = ""
    try:
        async with asyncio.timeout(_PATIENCE):
            while line := (await process.stdout.readline()).decode():
                said += line
                if person is not None and _URL.match(line.strip()):
                    await _agree(person, line.strip())
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found = [
        Check(scenario, revision, str(check["id"]), str(check["status"]), str(check.get("errorMessage") or ""))
        for file in sorted(folder.rglob("checks.json"))
        for check in json.loads(file.read_text(encoding="utf-8"))
    ]
    assert found, f"{scenario} at {revision} left no checks:\n{said}"
    return found


async def _agree(person: Person, url: str) -> None:
    """Sign in and consent, then go where the vault sends the browser: to the suite's own listener."""
    page = await person.open(url)
    if "/sign-in" in str(page.url):
        page = await person.sign_in("alice", PASSWORD, page=page)
    if page.status_code == 200:
        page = await person.submit(page, form="/consent", button=("decision", "allow"))
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        await http.get(page.headers["location"])
