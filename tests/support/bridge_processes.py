"""Bridge processes (`stdio --url`) at a running vault, and the person at the browser that they open."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from providers.simulator.person import consent
from server.bridge.address import remote_vault
from tests.support.harness import PASSWORD
from tests.support.person import Person
from tests.support.processes import PROGRAM, ROOT, opened_url
from tests.support.rooms.mcp_room import Agent


@dataclass
class Machine:
    """A machine away from the vault: its data directory, its browser, what the bridge prints on standard error."""

    url: str
    data: Path
    agent: str = "Bridged agent"
    extra: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.opened = self.data.parent / "opened"
        self.browser = self.data.parent / "browser"
        self.errors = self.data.parent / "stderr"
        self.browser.write_text(
            f'#!/bin/sh\nprintf %s "$1" > {self.opened}.part && mv {self.opened}.part {self.opened}\n'
        )
        self.browser.chmod(0o700)

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKEN_VAULT_")}
        return kept | {"PYTHONPATH": str(ROOT), "BROWSER": f"{self.browser} %s"} | self.extra

    def arguments(self, *more: str) -> list[str]:
        where = ("--url", self.url, "--client", self.agent, "--data", str(self.data))
        return [*PROGRAM, "stdio", *where, *more]

    @asynccontextmanager
    async def client(self, *more: str, **options: object) -> AsyncGenerator[Client]:
        """The official client with its own bridge process."""
        from mcp.client.stdio import stdio_client

        parameters = StdioServerParameters(
            command=sys.executable, args=self.arguments(*more)[1:], env=self.environment()
        )
        with self.errors.open("a") as errors:
            async with Client(stdio_client(parameters, errlog=errors), **options) as client:
                yield client

    async def run(self, *more: str) -> tuple[int, str, str]:
        """Run one bridge command to its end."""
        process = await self.start(*more)
        async with asyncio.timeout(30):
            out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    async def start(self, *more: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *self.arguments(*more), stdin=pipe, stdout=pipe, stderr=pipe, env=self.environment()
        )

    async def address(self) -> str:
        """What the bridge has opened in the browser."""
        async with asyncio.timeout(60):
            while not self.opened.exists():
                await asyncio.sleep(0.02)
        self.shown = self.opened.read_text()
        self.opened.unlink()
        return opened_url(self.shown)

    async def code(self) -> tuple[str, str]:
        """Page and code that the bridge printed on standard error."""
        async with asyncio.timeout(60):
            while (found := re.search(r"open (\S+/device) .*? code ([A-Z]{4}-[A-Z]{4})", self.read_errors())) is None:
                await asyncio.sleep(0.02)
        return found[1], found[2]

    def read_errors(self) -> str:
        """Everything on standard error so far."""
        return self.errors.read_text() if self.errors.exists() else ""

    def read_credentials(self) -> dict[str, object]:
        """The file used instead of a keyring."""
        (file,) = (self.data / "remote").glob("*.json")
        return json.loads(file.read_text())

    def give(self, agent: Agent) -> None:
        """Store what a sign-in of this agent would have left: a refresh token."""
        folder = self.data / "remote"
        folder.mkdir(mode=0o700, exist_ok=True)
        file = folder / f"{remote_vault(self.url, agent=self.agent).name}.json"
        file.touch(mode=0o600)
        members = {"client_id": agent.principal.client_id, "access_token": agent.token, "expires_at": 2**31}
        file.write_text(json.dumps(members))

    def change(self, **members: object) -> None:
        (file,) = (self.data / "remote").glob("*.json")
        file.write_text(json.dumps(self.read_credentials() | members))


async def decide(person: Person, page: httpx2.Response, *, decision: str = "allow") -> httpx2.Response:
    """Sign in where asked, then answer the consent page."""
    if "/sign-in" in page.url.path:
        page = await person.sign_in("alice", PASSWORD, page=page)
    if page.status_code == 200:
        page = await person.submit(page, form="/consent", button=("decision", decision))
    return page


async def in_the_browser(machine: Machine, person: Person, *, decision: str = "allow") -> str:
    """Follow what the bridge opened to the last page; return that page."""
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as local:
        start = await local.get(await machine.address())
        answer = await decide(person, await person.open(start.headers["location"]), decision=decision)
        return (await local.get(answer.headers["location"])).text


async def by_code(machine: Machine, person: Person, *, decision: str = "allow") -> None:
    """Enter the code that the bridge printed."""
    page, code = await machine.code()
    shown = await person.open(page)
    if "/sign-in" in shown.url.path:
        shown = await person.sign_in("alice", PASSWORD, page=shown)
    await decide(person, await person.submit(shown, {"user_code": code}, form="/device"), decision=decision)


async def connect(person: Person, link: str) -> None:
    """Open a connect link and agree, also at the provider."""
    page = await person.open(link)
    page = await person.submit(page, form="/connect/", button=("decision", "allow"))
    if "location" in page.headers:
        page = await person.open(await consent(page.headers["location"]))
    assert page.status_code == 200, page.text
