"""docs/guides/register.md, word by word: each way to register is copied from the page and run, and yields a token."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from typer.testing import CliRunner

from server.cli import app
from tests.conftest import unavailable
from tests.support.harness import PASSWORD, serve_app
from tests.support.rooms.oauth_world import World, listening_socket, vault_with

PAGE = (Path(__file__).parent.parent.parent / "docs" / "guides/register.md").read_text(encoding="utf-8")


def block(title: str, language: str) -> str:
    """The code block in this language under the heading."""
    part = PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    found = re.search(rf"^```{language}\n(.*?)^```", part, flags=re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


async def assert_works(world: World, client_id: str, redirect_uri: str) -> None:
    """Check that a person can authorize the agent, and that its token is accepted."""
    code = await world.code(client_id, redirect_uri=redirect_uri)
    answer = await world.token(code.form(redirect_uri=redirect_uri))
    assert answer.status_code == 200, answer.text
    assert await world.probe(answer.json()["access_token"]) == 200


async def test_the_request(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        unavailable("the registration page needs: curl")
    async with vault_with(tmp_path / "data") as (vault, http), vault.person() as alice:
        await alice.sign_in("alice", PASSWORD)
        words = shlex.split(block("One request", "bash").replace("http://localhost:8765", vault.url))
        curl = await asyncio.create_subprocess_exec(*(w for w in words if w.strip()), stdout=asyncio.subprocess.PIPE)
        async with asyncio.timeout(30):
            out, _ = await curl.communicate()
        answer = json.loads(out)
        assert answer["client_name"] == "My agent"
        await assert_works(World(vault, alice, http), answer["client_id"], answer["redirect_uris"][0])


@pytest.mark.parametrize("redirect_uri", ["http://127.0.0.1:50123/callback", "web"])
async def test_the_document(tmp_path: Path, redirect_uri: str) -> None:
    listening = listening_socket()
    host = f"http://127.0.0.1:{listening.getsockname()[1]}"
    document = json.loads(
        block("One document", "json").replace("https://agent.example.com/client.json", f"{host}/client.json")
    )

    async def show(request: Request) -> JSONResponse:
        return JSONResponse(document)

    site = Starlette(routes=[Route("/client.json", show)])
    async with (
        serve_app(site, listening),
        vault_with(tmp_path / "data", sandbox={"loopback_client_metadata": True}) as (vault, http),
        vault.person() as alice,
    ):
        await alice.sign_in("alice", PASSWORD)
        where = document["redirect_uris"][1] if redirect_uri == "web" else redirect_uri
        await assert_works(World(vault, alice, http), document["client_id"], where)


async def test_the_command(tmp_path: Path) -> None:
    async with vault_with(tmp_path / "data", registration={"mode": "closed"}) as (vault, http), vault.person() as alice:
        await alice.sign_in("alice", PASSWORD)
        program, *arguments = shlex.split(block("One command", "sh"))
        assert program == "token-vault"
        arguments += ["--json", "--data", str(vault.deployment.data)]
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        assert result.exit_code == 0, result.output
        added = json.loads(result.stdout)
        await assert_works(World(vault, alice, http), added["client_id"], added["redirect_uris"][0])
