"""What `token-vault doctor` finds in a place, and other programs and servers for it to find."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from typer.testing import CliRunner

from providers.simulator.local_server import Simulator
from server.app import build_app, open_deployment
from server.cli import app
from server.settings import load_settings
from tests.support.harness import serve_app
from tests.support.processes import Place

Found = dict[str, dict[str, str]]


def configure(place: Place, *lines: str) -> None:
    """The settings file of the place; `lines` continue `[server]`."""
    text = "\n".join(["[server]", f"port = {place.port}", *lines])
    config = place.data / "config.toml"
    config.write_text(text + "\n")
    config.chmod(0o600)  # some have a password in an address


async def examine(place: Place, *, fails: bool = False) -> Found:
    """The doctor's results by check; the worst one if a check has several."""
    arguments = ["doctor", "--json", "--data", str(place.data)]
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert result.exit_code == (1 if fails else 0), result.output
    found: Found = {}
    for one in json.loads(result.stdout):
        assert (one["fix"] is not None) is (one["verdict"] != "ok"), one
        if one["check"] not in found or one["verdict"] == "problem":
            found[one["check"]] = one
    return found


def assert_problem(found: Found, check: str, *words: str) -> None:
    assert found[check]["verdict"] == "problem", found[check]
    for word in words:
        assert word in found[check]["sentence"] + found[check]["fix"], found[check]


def slack(simulator: Simulator, **changes: object) -> list[str]:
    return section_of("slack", {**simulator.slack_settings(), **changes})


def section_of(name: str, section: Mapping[str, object]) -> list[str]:
    lines = ["[sandbox]", "loopback_upstreams = true", f"[providers.{name}]"]
    for key, value in section.items():
        if isinstance(value, dict):
            lines += [f"{key}.{part} = {json.dumps(text)}" for part, text in value.items()]
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    return lines


@asynccontextmanager
async def stranger_on_port(port: int, status: str, body: object, *headers: str) -> AsyncGenerator[None]:
    """A stranger on the port that gives everyone the same answer."""
    content = json.dumps(body).encode()
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close", *headers])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head.encode() + b"\r\n\r\n" + content)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def serve_vault(place: Place) -> AsyncGenerator[str]:
    """A process that serves the vault, with the current settings; return the vault's ID."""
    listening = socket.create_server(("127.0.0.1", place.port))
    settings = load_settings(place.data / "config.toml", data=place.data)
    async with open_deployment(settings, data=place.data) as deployment, serve_app(build_app(deployment), listening):
        yield deployment.vault_id
