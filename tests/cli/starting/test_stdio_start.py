"""stdio answers a client before the vault is open, and says why it can't open."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.processes import ROOT, Place, free_port

BOUND = 60.0  # seconds
LIST: Mapping[str, object] = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
CALL: Mapping[str, object] = {
    "jsonrpc": "2.0",
    "id": 3,
    "method": "tools/call",
    "params": {"name": "connections", "arguments": {}},
}


def initialize(revision: str = "2025-11-25") -> dict[str, object]:
    params = {"protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    return {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "data").mkdir(mode=0o700)
    made = Place(tmp_path / "data", free_port())
    made.configure()
    return made


class Raw:
    """A client that writes and reads lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def send(self, *messages: Mapping[str, object]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("".join(json.dumps(message) + "\n" for message in messages).encode())
        await self.process.stdin.drain()

    async def receive(self) -> dict[str, object]:
        assert self.process.stdout is not None
        async with asyncio.timeout(BOUND):
            found: dict[str, object] = json.loads(await self.process.stdout.readline())
        return found

    async def shake_hands(self) -> None:
        await self.send(initialize())
        assert "result" in await self.receive()
        await self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def leave(self) -> tuple[int, str]:
        """Close standard input; return the exit code and standard error."""
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        self.process.stdin.close()
        async with asyncio.timeout(BOUND):
            told = await self.process.stderr.read()
            return await self.process.wait(), told.decode()


@asynccontextmanager
async def start_stdio(place: Place) -> AsyncGenerator[Raw]:
    process = await asyncio.create_subprocess_exec(
        *place.arguments("stdio", "--client", "Raw", "--no-browser"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=place.environment(),
    )
    try:
        yield Raw(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def silent_database(place: Place) -> AsyncGenerator[asyncio.Event]:
    """Use a database server that says nothing until the event is set, and then hangs up."""
    over, connected = asyncio.Event(), asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await over.wait()
        writer.close()

    port = free_port()
    async with await asyncio.start_server(say_nothing, "127.0.0.1", port):
        config = place.data / "config.toml"
        url = f"postgresql://vault:none@127.0.0.1:{port}/vault"
        config.write_text(f'{config.read_text()}\n[database]\nurl = "{url}"\n')
        try:
            yield over
        finally:
            over.set()


async def test_tools_are_listed_while_the_vault_is_still_opening_and_calls_wait(place: Place) -> None:
    async with silent_database(place) as over, start_stdio(place) as client:
        await client.shake_hands()
        await client.send(CALL, LIST)
        listed = await client.receive()
        assert listed["id"] == 2
        result = listed["result"]
        assert isinstance(result, dict)
        assert {"slack_post", "connections"} <= {tool["name"] for tool in result["tools"]}
        await client.send({"jsonrpc": "2.0", "id": 4, "method": "ping"})
        assert (await client.receive())["id"] == 4  # the call was sent before and still has no answer
        over.set()
        refused = await client.receive()
        assert refused["id"] == 3
        error = refused["error"]
        assert isinstance(error, dict)
        code, told = await client.leave()
        assert code == 1
        assert "Traceback" not in told
        (said,) = [line for line in told.splitlines() if line.startswith("token-vault: ")]
        assert said.removeprefix("token-vault: ") in str(error["message"])


async def test_a_call_that_came_early_is_answered_when_the_vault_is_open(place: Place) -> None:
    async with start_stdio(place) as client:
        await client.send(initialize(), {"jsonrpc": "2.0", "method": "notifications/initialized"}, CALL, LIST)
        answers = {answer["id"]: answer for answer in [await client.receive() for _ in range(3)]}
        called = answers[3]["result"]
        assert isinstance(called, dict)
        assert called["structuredContent"]["not_connected"] == ["google", "slack"]
        assert (await client.leave())[0] == 0


async def test_a_client_of_2026_is_answered_early_too(place: Place) -> None:
    envelope = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    async with silent_database(place), start_stdio(place) as client:
        for number, method in enumerate(("server/discover", "tools/list")):
            await client.send({"jsonrpc": "2.0", "id": number, "method": method, "params": {"_meta": envelope}})
            assert "result" in await client.receive()


@pytest.mark.parametrize(
    ("broken", "is_seen_at_once"),
    [("[server]\nport = 'none'\n", True), ("[tools]\nenable = ['no_such_tool']\n", False)],
    ids=["settings", "a tool that no accepted MCP server has"],
)
async def test_settings_that_make_no_sense_are_said_to_the_client_and_on_standard_error(
    place: Place, broken: str, *, is_seen_at_once: bool
) -> None:
    (place.data / "config.toml").write_text(broken if is_seen_at_once else f"[server]\nport = {place.port}\n{broken}")
    async with start_stdio(place) as client:
        await client.send(initialize(), {"jsonrpc": "2.0", "method": "notifications/initialized"})
        if not is_seen_at_once:
            assert "result" in await client.receive()
            await client.send(CALL)
        error = (await client.receive())["error"]
        assert isinstance(error, dict)
        code, told = await client.leave()
    assert code == 1
    (said,) = told.splitlines()
    assert said.removeprefix("token-vault: ") in str(error["message"])
    assert error["code"] == -32603


async def test_a_key_that_is_gone_is_said_to_the_client_and_on_standard_error(place: Place) -> None:
    async with start_stdio(place) as client:
        await client.shake_hands()
        await client.send(CALL)
        assert "result" in await client.receive()
        assert (await client.leave())[0] == 0
    (place.data / "master.key").rename(place.data / "elsewhere")
    async with start_stdio(place) as client:
        await client.shake_hands()
        await client.send(CALL)
        error = (await client.receive())["error"]
        assert isinstance(error, dict)
        code, told = await client.leave()
        assert code == 1
        assert told.strip().removeprefix("token-vault: ") in str(error["message"])


async def test_a_client_that_leaves_at_once_is_no_failure(place: Place) -> None:
    async with start_stdio(place) as client:
        assert await client.leave() == (0, "")
    async with start_stdio(place) as client:
        await client.shake_hands()
        assert (await client.leave())[0] == 0


def test_a_list_of_tools_loads_nothing_that_only_calls_or_pages_need() -> None:
    heavy = (
        "aiohttp",
        "joserfc",
        "jinja2",
        "sqlite3",
        "argon2",
        "psycopg",
        "server.app",
        "server.portal",
        "server.oauth",
    )
    program = (
        "import sys; from pathlib import Path; from server.settings import load_settings; import server.stdio as stdio;"
        "listed = stdio._tools_at_once(load_settings(overrides={}), Path('none'));"
        f"print(listed.has('slack_post'), [name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "True []\n"


async def test_a_line_of_a_plain_file_is_answered_on_standard_output(place: Place, tmp_path: Path) -> None:
    """The event loop can't wait for a file, so the SDK reads it; the same applies to a pipe on Windows."""
    lines = tmp_path / "lines"
    lines.write_text(json.dumps(initialize()) + "\n", encoding="utf-8")
    with lines.open("rb") as given:
        process = await asyncio.create_subprocess_exec(
            *place.arguments("stdio", "--client", "Raw", "--no-browser"),
            stdin=given,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=place.environment(),
        )
        async with asyncio.timeout(BOUND):
            out, err = await process.communicate()
    assert "result" in json.loads(out), err
    assert b"jsonrpc" not in err
