"""The stdio bridge, attacked by a hostile remote vault and by a hostile client on its standard input.

Each attack runs one `stdio --url` process with stored credentials. Whatever is done to it, the next honest message is
answered, no token goes to another server, and standard output has only JSON-RPC.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from server.bridge.address import remote_vault
from server.bridge.credentials import Credentials, FileStore
from tests.attacks.target import LEGACY, MODERN
from tests.support.doubles.scripted_server import Arrival, Reply, ScriptedServer, json_reply, scripted_server
from tests.support.processes import PROGRAM, ROOT

AGENT, TOKEN, REFRESH = "Attacked", "access-canary", "refresh-canary"
MEMORY = 220  # MiB: an idle bridge has about 110


@dataclass
class Bridge:
    """A bridge process, the hostile vault it calls, and another server that must never receive a token."""

    vault: ScriptedServer
    elsewhere: ScriptedServer
    process: asyncio.subprocess.Process
    errors: Path
    said: list[dict[str, object]] = field(default_factory=list[dict[str, object]])

    async def send(self, message: object) -> None:
        await self.raw(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")

    async def raw(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        await self.process.stdin.drain()

    async def until(self, wanted: object, *, seconds: float = 20.0) -> dict[str, object]:
        """Read until the answer with this id, and check that every line is JSON-RPC."""
        assert self.process.stdout is not None
        async with asyncio.timeout(seconds):
            while True:
                line = await self.process.stdout.readline()
                assert line, f"the bridge ended: {self.errors.read_text()[-2000:]}"
                message = json.loads(line)
                assert message["jsonrpc"] == "2.0"
                assert not set(line.decode()) & set("\x1b\r"), line
                self.said.append(message)
                if message.get("id") == wanted and "method" not in message:
                    return message

    async def call(self, number: int, *, seconds: float = 15.0) -> dict[str, object]:
        await self.send(request(number))
        return await self.until(number, seconds=seconds)

    @property
    def memory(self) -> int:
        """The process's peak memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) // 1024


def request(number: object, method: str = "tools/list", meta: Mapping[str, object] | None = None) -> dict[str, object]:
    known = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "attack", "version": "1"},
    }
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": {"_meta": {**known, **(meta or {})}}}


def honest(arrival: Arrival) -> Reply:
    """The answers of an honest vault."""
    if arrival.method != "POST":
        return Reply(405)
    content = json.loads(arrival.body)
    if "id" not in content:
        return Reply(202)
    return json_reply({"jsonrpc": "2.0", "id": content["id"], "result": {"tools": []}})


@asynccontextmanager
async def bridge(folder: Path, answer: Callable[[Arrival], Reply] = honest) -> AsyncGenerator[Bridge]:
    data = folder / "data"
    data.mkdir(mode=0o700)
    async with scripted_server(lambda _: Reply(200)) as elsewhere, scripted_server(answer) as vault:
        named = remote_vault(vault.url, agent=AGENT)
        held = Credentials("client", refresh_token=REFRESH, access_token=TOKEN, expires_at=int(time.time()) + 3600)
        FileStore(data / "remote" / f"{named.name}.json", why="").save(held)
        errors, pipe = folder / "errors", asyncio.subprocess.PIPE
        words = ("stdio", "--url", vault.url, "--client", AGENT, "--data", str(data), "--no-browser")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TOKEN_VAULT_")}
        environment |= {"PYTHONPATH": str(ROOT), "BROWSER": ""}
        with errors.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *PROGRAM, *words, stdin=pipe, stdout=pipe, stderr=out, env=environment, limit=2**26
            )
        one = Bridge(vault, elsewhere, process, errors)
        try:
            yield one
            assert process.returncode is None, errors.read_text()[-2000:]
            assert one.memory < MEMORY
            told = errors.read_text(errors="replace")
            assert not elsewhere.arrivals
            assert TOKEN not in told and REFRESH not in told and "Traceback" not in told, told[-2000:]
            assert not set(told) & set("\x1b\x9b\u202e"), told[-2000:]
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def once(reply: Reply | Callable[[Arrival], Reply]) -> Callable[[Arrival], Reply]:
    """Answer the first message with this; then the vault is honest."""
    left = [reply]

    def answer(arrival: Arrival) -> Reply:
        if arrival.method != "POST" or not left:
            return honest(arrival)
        first = left.pop()
        return first if isinstance(first, Reply) else first(arrival)

    return answer


def stream(*events: str, **headers: str) -> Reply:
    body = "".join(f"{event}\n\n" for event in events).encode()
    return Reply(200, body, {"Content-Type": "text/event-stream", **headers})


def chunked_reply(body: bytes, kind: str, *, times: int) -> Reply:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return Reply(raw=head + (b"%x\r\n" % len(body) + body + b"\r\n") * times + b"0\r\n\r\n")


def redirect(status: int, where: str) -> Reply:
    return Reply(status, b"", {"Location": where})


NESTED = b"[" * 200_000
HOSTILE: dict[str, Reply] = {
    "no JSON": Reply(200, b"\xff\xfe{", {"Content-Type": "application/json"}),
    "an empty body": Reply(200, b"", {"Content-Type": "application/json"}),
    "no content type": Reply(200, b"{}"),
    "a page with terminal escapes": Reply(200, b"\x1b]0;x\x07\xc2\x9b2J", {"Content-Type": "text/html"}),
    "terminal escapes in the content type": Reply(200, b"", {"Content-Type": "text/\x9b31m\x85x"}),
    "JSON 200,000 deep": Reply(200, NESTED, {"Content-Type": "application/json"}),
    "an answer without an id": json_reply({"jsonrpc": "2.0", "id": None, "error": {"code": 1, "message": "\x1b[2J"}}),
    "an answer to another message": json_reply({"jsonrpc": "2.0", "id": 77, "result": {}}),
    "a session id of another alphabet": Reply(
        200,
        b'{"jsonrpc":"2.0","id":1,"result":{}}',
        {"Content-Type": "application/json", "Mcp-Session-Id": "\x9b\xe9"},
    ),
    "an error with escapes at 400": json_reply(
        {"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "\x1b[2J\u202e\x9b"}}, status=400
    ),
    "96 MiB of JSON": chunked_reply(b" " * 2**20, "application/json", times=96),
    "96 MiB of a page": chunked_reply(b" " * 2**20, "text/html", times=96),
    "96 MiB of one event": chunked_reply(b"data: " + b"x" * 2**20, "text/event-stream", times=96),
    "256 MiB in gzip": Reply(
        200,
        gzip.compress(b" " * 2**20) * 256,
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ),
    "broken gzip": Reply(200, b"no gzip", {"Content-Type": "application/json", "Content-Encoding": "gzip"}),
    "broken gzip in a stream": Reply(
        200, b"no gzip", {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}
    ),
    "a length that never comes": Reply(200, b"{}", {"Content-Type": "application/json"}, claimed_length=9),
    "no HTTP": Reply(raw=b"\x00\x1b[2J\r\n\r\n"),
    "a head of 1 MiB": Reply(raw=b"HTTP/1.1 200 OK\r\nX: " + b"a" * 2**20 + b"\r\n\r\n"),
    "a status of its own": Reply(799, b"", {}),
    "202": Reply(202),
    "204": Reply(204),
    "a redirect to nowhere": redirect(307, "http://["),
    "a redirect to a file": redirect(307, "file:///etc/passwd"),
    "a redirect with credentials": redirect(307, "http://user:pass@127.0.0.1:1/mcp"),
    "a redirect to another port": redirect(308, "http://127.0.0.1:1/mcp"),
    "a redirect that ends the line": redirect(308, "http://127.0.0.1:1/\x0b\x85mcp"),
    "a stream that ends": stream(": nothing"),
    "a stream of no JSON": stream("data: {"),
    "a stream with a retry of a word": stream("retry: soon"),
    "a stream with a retry of 5,000 digits": stream("retry: " + "9" * 5000),
    "a stream of unknown events": stream(*["event: \x1b[2J\ndata: x"] * 100),
    "a session id of 60 KiB": Reply(
        200,
        b'{"jsonrpc":"2.0","id":1,"result":{}}',
        {"Content-Type": "application/json", "Mcp-Session-Id": "s" * 60_000},
    ),
}


UNANSWERED = {"an answer without an id", "an answer to another message"}  # the client's own timeout ends them


@pytest.mark.parametrize("name", HOSTILE)
async def test_after_a_hostile_answer_the_next_message_is_answered(name: str, tmp_path: Path) -> None:
    async with bridge(tmp_path, once(HOSTILE[name])) as one:
        await one.send(request(1))
        while not one.vault.arrivals:
            await asyncio.sleep(0.05)
        if name not in UNANSWERED:
            await one.until(1)
        assert "result" in await one.call(2)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_takes_the_token_to_another_server(status: int, tmp_path: Path) -> None:
    kept: list[str] = []

    def answer(arrival: Arrival) -> Reply:
        return redirect(status, kept[0] + "/mcp")

    async with bridge(tmp_path, answer) as one:
        kept.append(one.elsewhere.url)
        assert "error" in await one.call(1)
        assert one.vault.arrivals


async def test_a_redirect_at_the_token_endpoint_takes_no_refresh_token_along(tmp_path: Path) -> None:
    kept: list[str] = []

    def answer(arrival: Arrival) -> Reply:
        match arrival.path:
            case "/.well-known/oauth-authorization-server":
                members = ("authorization", "token", "registration", "device_authorization", "revocation")
                said: dict[str, object] = {f"{name}_endpoint": f"{kept[1]}/{name}" for name in members}
                said |= {"issuer": kept[1], "code_challenge_methods_supported": ["S256"]}
                return json_reply(said)
            case "/mcp":
                return Reply(401)
            case _:
                return redirect(307, f"{kept[0]}/token")

    async with bridge(tmp_path, answer) as one:
        kept.extend((one.elsewhere.url, one.vault.url))
        assert "error" in await one.call(1)
        assert any(arrival.path == "/token" for arrival in one.vault.arrivals)


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "OTHER"},
        {"token_endpoint": "OTHER/token"},
        {"token_endpoint": "VAULT@OTHER/token"},
        {"token_endpoint": "VAULT/" + "a" * 100_000},
        {"token_endpoint": "VAULT/%zz[::1"},
        {"token_endpoint": "VAULT/\r\nx"},
        {"token_endpoint": 7},
        {"token_endpoint": ["VAULT/token"]},
        {"code_challenge_methods_supported": ["plain", "S256"]},
    ],
    ids=repr,
)
async def test_metadata_that_leads_elsewhere_gets_no_refresh_token(change: dict[str, object], tmp_path: Path) -> None:
    urls: list[str] = []

    def answer(arrival: Arrival) -> Reply:
        if arrival.path != "/.well-known/oauth-authorization-server":
            return Reply(401)
        members = ("authorization", "token", "registration", "device_authorization", "revocation")
        said: dict[str, object] = {f"{name}_endpoint": f"VAULT/{name}" for name in members}
        said |= {"issuer": "VAULT", "code_challenge_methods_supported": ["S256"]}
        text = json.dumps(said | change).replace("VAULT", urls[0]).replace("OTHER", urls[1])
        return Reply(200, text.encode(), {"Content-Type": "application/json"})

    async with bridge(tmp_path, answer) as one:
        urls.extend((one.vault.url, one.elsewhere.url))
        assert "error" in await one.call(1)
        await one.send(request(2))
        assert "error" in await one.until(2)


async def test_a_stream_that_wants_to_be_opened_at_once_is_not_opened_in_a_loop(tmp_path: Path) -> None:
    def answer(arrival: Arrival) -> Reply:
        if arrival.method == "GET":
            return stream("id: 1\nretry: 0\ndata: ")
        content = json.loads(arrival.body)
        if content["method"] != "initialize":
            return honest(arrival)
        result = {"protocolVersion": LEGACY, "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}}
        return json_reply({"jsonrpc": "2.0", "id": content["id"], "result": result}, headers={"Mcp-Session-Id": "s"})

    async with bridge(tmp_path, answer) as one:
        about = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        await one.send({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": about})
        await one.until(0)
        await one.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        await one.call(1)
        await asyncio.sleep(3)
        assert 1 <= one.vault.count_arrivals("GET") <= 6
        assert "result" in await one.call(2)


async def test_an_answer_that_wants_to_be_resumed_at_once_is_not_asked_for_in_a_loop(tmp_path: Path) -> None:
    def answer(arrival: Arrival) -> Reply:
        return stream("id: 1\nretry: 0\ndata: ")

    async with bridge(tmp_path, answer) as one:
        await one.send(request(1))
        while not one.vault.arrivals:
            await asyncio.sleep(0.05)
        await asyncio.sleep(3)
        assert 1 <= len(one.vault.arrivals) <= 6


@pytest.mark.parametrize("version", ["a\r\nx: y", "\u202e\x9b", "\ud800", "v" * 100_000, 7, None], ids=repr)
async def test_a_protocol_version_that_is_no_header_changes_nothing(version: object, tmp_path: Path) -> None:
    def answer(arrival: Arrival) -> Reply:
        content = json.loads(arrival.body)
        if content.get("method") != "initialize":
            return honest(arrival)
        result = {"protocolVersion": version, "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}}
        return json_reply({"jsonrpc": "2.0", "id": content["id"], "result": result})

    async with bridge(tmp_path, answer) as one:
        about = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        await one.send({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": about})
        await one.until(0)
        await one.send({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        await one.until(1)
        assert "result" in await one.call(2)


def _cancel(which: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": which}}


LINES: dict[str, bytes | dict[str, object]] = {
    "no JSON": b"hello\n",
    "an empty line": b"\n",
    "no UTF-8": b"\xff\xfe\x00{\n",
    "zero bytes": b"\x00" * 1000 + b"\n",
    "a batch": b"[]\n",
    "JSON 200,000 deep": NESTED + b"\n",
    "a surrogate": b'{"jsonrpc":"2.0","id":7,"method":"\\ud800","params":{}}\n',
    "a cancelled list": _cancel([]),
    "a cancelled object": _cancel({"a": 1}),
    "a cancelled nothing": _cancel(None),
    "a cancelled yes": _cancel(True),
    "params that are a list": b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":[1]}\n',
    "a method of another alphabet": request(7, "tools/\u00e9\u202e"),
    "a method that ends the line": request(7, "tools/list\r\nx: y"),
    "a version of another alphabet": request(7, meta={"io.modelcontextprotocol/protocolVersion": "\u00e9"}),
    "a version that ends the line": request(7, meta={"io.modelcontextprotocol/protocolVersion": "a\r\nx: y"}),
    "a version that is a number": request(7, meta={"io.modelcontextprotocol/protocolVersion": 7}),
    "an answer that nobody asked for": b'{"jsonrpc":"2.0","id":99,"result":{}}\n',
    "our own id": request("token-vault-bridge"),
    "the same id twice": json.dumps(request(7)).encode() + b"\n" + json.dumps(request(7)).encode() + b"\n",
    "an id of 4,000 digits": b'{"jsonrpc":"2.0","id":' + b"9" * 4000 + b',"method":"tools/list"}\n',
    "a name of lone surrogates": b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"\\ud800"}}\n',
    "96 MiB without an end": b"",
}


@pytest.mark.parametrize("name", LINES)
async def test_after_a_hostile_line_the_next_message_is_answered(name: str, tmp_path: Path) -> None:
    async with bridge(tmp_path) as one:
        assert "result" in await one.call(1)
        if name.startswith("96"):
            for _ in range(96):
                await one.raw(b"x" * 2**20)
            await one.raw(b"\n")
        else:
            await one.send(LINES[name])
        assert "result" in await one.call(2)
