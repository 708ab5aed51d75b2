"""The vault as the tenant of an Auth0 application, at https://localhost:PORT/, and its person."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import httpx2

from providers.simulator.local_server import Simulator, running_simulator
from providers.simulator.person import consent
from server.oauth.clients.authentication import secret_hash
from server.oauth.rules import TOKEN_EXCHANGE
from tests.auth0.application import CALLBACK, SECRET, VERIFIER
from tests.support.harness import RunningVault, free_socket, running_vault
from tests.support.network.tls import Authority, Through, make_authority, tls_proxy
from tests.support.person import Person
from tests.support.rooms.portal_room import CHALLENGE, query_of
from vault import clients
from vault.records import Client, ClientKind

API = "https://api.example/orders"
GRANTS = frozenset({"authorization_code", "refresh_token", TOKEN_EXCHANGE})


class Tenant:
    """The vault that the application uses as its tenant, at https://localhost:PORT/ or without the port."""

    def __init__(self, vault: RunningVault, authority: Authority, simulator: Simulator, *, port: int) -> None:
        self.vault = vault
        self.authority = authority
        self.simulator = simulator
        self.port = port

    @property
    def domain(self) -> str:
        return urlsplit(self.vault.url).netloc

    def way(self) -> Through:
        return Through("localhost", self.authority, port=self.port)

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
        """Approve on the page at this URL, and at the provider if asked; return where the browser goes next."""
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
async def tenant(folder: Path, *, tells_port: bool = True, **more: object) -> AsyncGenerator[Tenant]:
    """Run the vault as a tenant. If its URL has no port, clients need a tunnel to `Tenant.port`."""
    authority, outside = make_authority(folder, "localhost"), free_socket()
    port = outside.getsockname()[1]
    public = f"https://localhost:{port}" if tells_port else "https://localhost"
    overrides = {"auth0": {"enabled": True}, "server": {"public_url": public, "issuer_slash": True}, **more}
    async with (
        running_simulator() as simulator,
        running_vault(folder / "data", providers=simulator.settings(), overrides=overrides) as vault,
        tls_proxy(outside, authority, backend=vault.settings.server.port),
    ):
        yield Tenant(vault, authority, simulator, port=port)


async def single_page_token(place: Tenant, person: Person) -> str:
    """Get an access token for the API as an Auth0 single-page application does."""
    client = await place.client("spa", auth_method="none", secret_hash=None, resources=(API,), metadata={"auth0": True})
    return (await signed_in(place, person, client, audience=API))["access_token"]


async def signed_in(place: Tenant, person: Person, client: Client, **more: str) -> dict[str, str]:
    """Sign the person in to an application; return its tokens."""
    query = {
        "response_type": "code",
        "client_id": client.id,
        "redirect_uri": CALLBACK,
        "scope": "openid offline_access",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        **more,
    }
    answer = query_of(await place.allow(person, f"{place.vault.url}/authorize?{urlencode(query)}"))
    form = {"grant_type": "authorization_code", "client_id": client.id, "code": answer["code"]}
    form |= {} if client.is_public else {"client_secret": SECRET}
    async with httpx2.AsyncClient(base_url=place.vault.url, transport=place.way(), timeout=30) as http:
        redeemed = await http.post("/oauth/token", json={**form, "redirect_uri": CALLBACK, "code_verifier": VERIFIER})
    return redeemed.json()
