"""Auth0's own Python SDKs, unmodified, over TLS: only the domain, the client and its secret are ours."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import httpx2
import pytest

from providers.simulator.person import consent
from providers.simulator.running import Simulator, running_simulator
from server.oauth.clients.authentication import secret_hash
from server.oauth.rules import TOKEN_EXCHANGE
from tests.auth0.application import CALLBACK, SECRET, VERIFIER
from tests.conftest import unavailable
from tests.support.harness import PASSWORD, RunningVault, free_socket, running_vault
from tests.support.person import Person
from tests.support.rooms.portal_room import CHALLENGE, query_of
from tests.support.tls import Authority, Through, make_authority, tls_proxy
from vault import apis, clients
from vault.records import Client, ClientKind

PYTHON = Path(__file__).parents[2] / ".venv" / "sdks" / "auth0" / "bin" / "python"
PROGRAM = Path(__file__).parent / "sdk_program.py"
API = "https://api.example/orders"
GRANTS = frozenset({"authorization_code", "refresh_token", TOKEN_EXCHANGE})
PATIENCE = 120.0

pytestmark = pytest.mark.group("sdks")


class Tenant:
    """What such an application takes for its tenant: this vault at https://localhost:PORT/."""

    def __init__(self, vault: RunningVault, authority: Authority, simulator: Simulator) -> None:
        self.vault = vault
        self.authority = authority
        self.simulator = simulator

    @property
    def domain(self) -> str:
        return urlsplit(self.vault.url).netloc

    def way(self) -> Through:
        return Through("localhost", self.authority)

    async def client(self, name: str, **changes: object) -> Client:
        facts: dict[str, object] = {
            "id": name,
            "kind": ClientKind.MANUAL,
            "name": name,
            "auth_method": "client_secret_post",
            "secret_hash": secret_hash(SECRET),
            "redirect_uris": (CALLBACK,),
            "grant_types": GRANTS,
            "created_at": self.vault.deployment.now(),
            "metadata": {"auth0": True, "release": {"slack": "full"}},
        }
        made = Client(**{**facts, **changes})  # pyright: ignore[reportArgumentType]
        async with self.vault.deployment.transaction() as transaction:
            await clients.save_client(transaction, made)
        return made

    async def allow(self, person: Person, url: str) -> str:
        """Say yes on whatever page this address leads to, at the provider, too; where the browser then goes."""
        page = await person.open(url)
        if page.status_code == 303:
            return str(page.headers["location"])
        form = "/connect/" if "/connect/" in str(page.url) else "/consent"
        answer = await person.submit(page, form=form, button=("decision", "allow"))
        location = str(answer.headers["location"])
        if location.startswith(CALLBACK):
            return location
        return str((await person.open(await consent(location))).headers["location"])


@asynccontextmanager
async def tenant(folder: Path) -> AsyncGenerator[Tenant]:
    authority, outside = make_authority(folder, "localhost"), free_socket()
    public = f"https://localhost:{outside.getsockname()[1]}"
    overrides = {"auth0": {"enabled": True}, "server": {"public_url": public, "issuer_slash": True}}
    async with (
        running_simulator() as simulator,
        running_vault(folder / "data", providers=simulator.settings(), overrides=overrides) as vault,
        tls_proxy(outside, authority, backend=vault.settings.server.port),
    ):
        yield Tenant(vault, authority, simulator)


async def single_page_token(place: Tenant, person: Person) -> str:
    """An access token for the API, as a single-page application of Auth0's gets it."""
    client = await place.client("spa", auth_method="none", secret_hash=None, resources=(API,), metadata={"auth0": True})
    query = {
        "response_type": "code",
        "client_id": client.id,
        "redirect_uri": CALLBACK,
        "scope": "openid offline_access",
        "audience": API,
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    }
    answer = query_of(await place.allow(person, f"{place.vault.url}/authorize?{urlencode(query)}"))
    async with httpx2.AsyncClient(base_url=place.vault.url, transport=place.way()) as http:
        form = {"grant_type": "authorization_code", "client_id": client.id, "code": answer["code"]}
        redeemed = await http.post("/oauth/token", json={**form, "redirect_uri": CALLBACK, "code_verifier": VERIFIER})
    return str(redeemed.json()["access_token"])


async def test_the_sdks_sign_in_connect_exchange_and_disconnect(tmp_path: Path) -> None:
    if not PYTHON.exists():
        unavailable("the SDKs need: make sdks")
    async with tenant(tmp_path) as place, Person(place.vault.url, transport=place.way()) as person:
        await person.sign_in("alice", PASSWORD)
        client = await place.client("app", resources=(API,))
        api_client = await place.client("orders-api", redirect_uris=())
        async with place.vault.deployment.transaction() as transaction:
            now = place.vault.deployment.now()
            await apis.add_api(transaction, API, name="Orders", now=now, scopes=frozenset())
            await apis.link_client(transaction, API, client_id=api_client.id, now=now)
        environment = {
            **os.environ,
            "DOMAIN": place.domain,
            "CLIENT_ID": client.id,
            "CLIENT_SECRET": SECRET,
            "API_CLIENT_ID": api_client.id,
            "REDIRECT": CALLBACK,
            "API": API,
            "SSL_CERT_FILE": str(place.authority.authority),
            "REQUESTS_CA_BUNDLE": str(place.authority.authority),
        }
        process = await asyncio.create_subprocess_exec(
            str(PYTHON), "-W", "ignore", str(PROGRAM), env=environment,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        said = ""
        async with asyncio.timeout(PATIENCE):
            while line := (await process.stdout.readline()).decode().strip():
                said = line
                if line.startswith("{"):
                    break
                went = await single_page_token(place, person) if line == API else await place.allow(person, line)
                process.stdin.write(f"{went}\n".encode())
                await process.stdin.drain()
            errors = (await process.stderr.read()).decode()
            await process.wait()
        assert process.returncode == 0, errors
        found = json.loads(said)
    assert found["interrupt before"] == "interrupt: ['chat:write']"
    assert found["connected"]["connection"] == "slack"
    assert found["listed"] == [found["connected"]["id"]]
    assert "google-oauth2" in found["connections"]
    assert found["members"] == ["access_token", "expires_in", "issued_token_type", "scope", "token_type"]
    assert found["tool"].startswith("xoxp-") or found["tool"] == found["server"]
    assert found["tool that needs more"].startswith("interrupt: ")
    assert found["verified"] == f"{place.vault.url}/"
    assert found["api"]
    assert found["after"] == "interrupt: ['chat:write']"
