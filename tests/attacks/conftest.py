"""One vault for all attacks; whatever an attack does to it, it must still work for the next one."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import httpx2
import pytest

from tests.attacks.enterprise.company import Company, running_company
from tests.attacks.target import LOOPBACK, PASSWORD, REDIRECT, RUNNING, Target, replica, running_target
from tests.conftest import PostgresCluster
from tests.support.doubles.scripted_server import Reply, ScriptedServer, scripted_server
from tests.support.person import Person
from tests.support.processes import Place, free_port


@pytest.fixture(scope="session")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Target]:
    """The running vault."""
    async with running_target(tmp_path_factory.mktemp("attacked")) as running:
        yield running


@dataclass
class Pair:
    """The vault, and an HTTP client for each process. Both processes have the same public URL."""

    target: Target
    other: httpx2.AsyncClient = field(repr=False)

    @property
    def clients(self) -> list[httpx2.AsyncClient]:
        return [self.target.http, self.other]


@pytest.fixture(scope="session")
async def pair(postgres: PostgresCluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    database = postgres.url(await postgres.create())
    async with running_target(folder, database=database) as target, replica(target, folder) as port:
        headers = {"host": target.host}
        async with httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30, trust_env=False
        ) as other:
            yield Pair(target, other)


@pytest.fixture(params=["SQLite", "PostgreSQL"])
async def vault(request: pytest.FixtureRequest, target: Target, pair: Pair) -> Target:
    """A vault on each database."""
    return target if request.param == "SQLite" else pair.target


@pytest.fixture(scope="module")
async def person(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Person]:
    """A person at a vault without a sandbox."""
    place = Place(tmp_path_factory.mktemp("plain"), free_port())
    place.configure()
    async with place.serve(), Person(place.url) as browser:
        code, _, err = await place.run("users", "add", "mallory", "--admin", "--password-stdin", feed=PASSWORD + "\n")
        assert code == 0, err
        page = await browser.sign_in("mallory", PASSWORD)
        assert page.status_code == 200
        yield browser


@pytest.fixture(scope="module")
async def inside() -> AsyncGenerator[ScriptedServer]:
    """A server of the operator that only the operator may reach."""
    async with scripted_server(lambda _: Reply(200, b"inside")) as server:
        yield server


@pytest.fixture(scope="session")
async def tenant(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Target]:
    """A vault with Auth0's interface turned on, and applications that an operator registered for it."""
    async with running_target(tmp_path_factory.mktemp("auth0"), more="[auth0]\nenabled = true\n") as running:
        for name, words in {
            "app": ("--confidential", "--redirect-uri", REDIRECT),
            "app2": ("--confidential", "--redirect-uri", REDIRECT),
            "spa": ("--redirect-uri", LOOPBACK),
        }.items():
            made = json.loads(await running.command("clients", "add", name, "--auth0", *words, "--json"))
            running.clients[name] = {key: str(made[key]) for key in ("client_id", "client_secret") if made.get(key)}
        for name in ("app", "app2"):
            await running.command("clients", "release", running.clients[name]["client_id"], "slack", "full")
        yield running


@pytest.fixture(scope="session")
async def company(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Company]:
    """A company's vault with an identity provider and a directory."""
    async with running_company(tmp_path_factory.mktemp("company")) as running:
        yield running


@pytest.fixture(autouse=True)
async def recent_admins() -> None:
    """All attacks together take longer than a sign-in stays valid for administration."""
    for one in RUNNING:
        await one.keep_admin()
