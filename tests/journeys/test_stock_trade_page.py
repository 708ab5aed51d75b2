"""The page about a developer's own API, followed as written: files, checks, and the sandbox with both."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult

from providers.simulator.local_server import running_simulator
from server.lifecycle.sandbox import EXAMPLES
from server.oauth.own_apis import LONGEST
from tests.generating.documentation import DOCS
from tests.support.commands import run
from tests.support.harness import PASSWORD, RunningVault
from tests.support.person import Person
from tests.support.processes import Place, free_port

PAGE = (DOCS / "guides/own-api.md").read_text(encoding="utf-8")
FILES = {"brokerage.toml": EXAMPLES / "providers", "stock_trade.toml": EXAMPLES / "tools"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, free_port())


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_page_leads_to_the_files_that_come_with_the_program() -> None:
    for name, folder in FILES.items():
        assert f"]({os.path.relpath(folder / name, DOCS / 'guides')})" in PAGE
    assert LONGEST == 300 and "at most five minutes" in PAGE


async def test_both_checks_say_that_the_files_are_right(place: Place) -> None:
    served, *checks = [line for block in blocks("sh") for line in block.splitlines()]
    assert served == "token-vault serve --sandbox"
    (place.data / "providers").mkdir()
    for line in checks:
        (name,) = [word for word in shlex.split(line) if word.endswith(".toml")]
        if name == "stock_trade.toml":  # the folder of the data directory, as the page says
            early = await run(place, "tools", "check", str(FILES[name] / name))
            assert early.exit_code == 1 and "no provider brokerage" in early.output
            provider = FILES["brokerage.toml"] / "brokerage.toml"
            (place.data / "providers" / "brokerage.toml").write_text(provider.read_text(encoding="utf-8"))
        words = [str(FILES[name] / name) if word == name else word for word in shlex.split(line)[1:]]
        result = await run(place, *words)
        assert result.exit_code == 0, result.output
        assert "no problems found" in result.stdout
    shown = await run(place, "providers", "show", "brokerage")
    assert "https://brokerage.example" in shown.stdout and "/connect/callback/" not in shown.stdout
    for nothing_to_do in (("providers", "test", "brokerage"), ("providers", "setup", "brokerage")):
        refused = await run(place, *nothing_to_do)
        assert refused.exit_code == 1 and "accepts this vault's own tokens" in refused.stderr


@asynccontextmanager
async def serve_sandbox(place: Place) -> AsyncGenerator[str]:
    """Run the page's first line as a process; yield the secret for the first admin."""
    place.configure()
    process = await asyncio.create_subprocess_exec(
        *place.arguments("serve", "--sandbox"), stderr=asyncio.subprocess.PIPE, env=place.environment()
    )
    assert process.stderr is not None
    try:
        said = ""
        async with asyncio.timeout(60):
            while not re.search(r"one-time secret:\s+\S+\n", said):
                line = await process.stderr.readline()
                assert line, said
                said += line.decode()
        yield said.split("one-time secret:")[1].split()[0]
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(30):
            await process.wait()


async def test_what_happens_happens_in_the_sandbox(place: Place) -> None:
    async with serve_sandbox(place) as secret, Person(place.url) as person:
        page = await person.open("/first-run")
        answers = {"secret": secret, "name": "alice", "password": PASSWORD, "password_again": PASSWORD}
        assert (await person.submit(page, answers)).status_code == 200
        vault = RunningVault(place.url, None)
        tokens = await vault.agent(person)
        bearer = {"Authorization": f"Bearer {tokens.access_token}"}
        async with httpx2.AsyncClient(headers=bearer, timeout=30, trust_env=False) as http:

            async def call(tool: str, **arguments: object) -> CallToolResult:
                async with Client(streamable_http_client(f"{place.url}/mcp", http_client=http)) as client:
                    return await client.call_tool(tool, arguments)

            async def say_yes(asked: CallToolResult) -> str:
                assert asked.is_error and asked.meta is not None
                link = str(asked.meta["io.github.mcp-token-vault/connect"]["url"])
                page = await person.open(link)
                form = f"/{urlsplit(link).path.split('/')[1]}/"
                return (await person.submit(page, form=form, button=("decision", "allow"))).text

            assert "Brokerage is connected" in await say_yes(await call("stock_quote", symbol="ACME"))
            assert not (await call("stock_quote", symbol="ACME")).is_error
            order = {"symbol": "GLOBEX", "side": "buy", "quantity": 2}
            assert "Buy and sell" in await say_yes(await call("stock_trade", **order))
            assert "Approved" in await say_yes(await call("stock_trade", **order))
            done = await call("stock_trade", **order)
            assert done.structured_content is not None and done.structured_content["status"] == "filled"
            assert (await call("stock_trade", **order)).is_error
            books = (await http.get(f"http://127.0.0.1:{place.port + 1}/_control/books")).json()["brokerage"]
            quote, last = books[0], books[-1]
            assert [one["scope"] for one in (quote, last)] == ["quotes:read", "orders:write"]
            assert {one["azp"] for one in books} == {tokens.client_id}
            assert len({one["sub"] for one in books}) == 1


@pytest.mark.long
async def test_another_program_at_the_port_of_the_sandbox_is_no_provider(place: Place) -> None:
    place.configure()
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", place.port + 1))
        stranger.listen()
        code, _, said = await place.run("serve", "--sandbox")
    assert code == 1 and f"127.0.0.1:{place.port + 1}" in said and "set another server.port" in said
    if sys.platform == "linux":
        assert f"process {os.getpid()}" in said
    async with running_simulator(port=place.port + 1), serve_sandbox(place) as secret:
        assert secret
