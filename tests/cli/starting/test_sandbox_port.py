"""Who may serve a sandbox's simulated providers: only a program of this user that answers as the simulator."""

from __future__ import annotations

import asyncio

import pytest

from providers.simulator.local_server import running_simulator
from server.lifecycle import sandbox
from server.lifecycle.sandbox import standing_in
from server.settings import SettingsRefused
from tests.support import other_user
from tests.support.processes import free_port

BOOKS = 'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"families":[]}'


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "RETRY", 0.05)


async def starts(port: int) -> bool:
    """Whether a sandbox with this port for its providers starts; it must decide in time."""
    async with asyncio.timeout(30):
        try:
            async with standing_in(port=port, issuer="http://localhost:1"):
                return True
        except SettingsRefused:
            return False


async def test_a_simulator_of_this_user_is_used() -> None:
    port = free_port()
    async with running_simulator(port=port):
        assert await starts(port)
    assert await starts(port)


@pytest.mark.requirement("S-177")
@other_user.needs_root
@pytest.mark.parametrize("other", [True, False])
async def test_what_answers_like_a_simulator_for_another_user_is_refused(*, other: bool) -> None:
    """Its answers would pass as a provider's, and it would get the tokens that the vault signs for the brokerage."""
    port = free_port()
    async with other_user.listener_program("127.0.0.1", port, BOOKS, other=other, stays=True):
        assert await starts(port) is not other


@pytest.mark.parametrize("words", [b"a", b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{", b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_a_program_that_never_ends_its_answer_is_refused_in_time(
    words: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_LOOK_TIMEOUT", 0.3)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        try:
            while not writer.is_closing():
                writer.write(b" ")
                await asyncio.sleep(0.05)
        finally:
            writer.close()

    listening = await asyncio.start_server(drip, "127.0.0.1", 0)
    try:
        assert not await starts(int(listening.sockets[0].getsockname()[1]))
    finally:
        listening.close()
