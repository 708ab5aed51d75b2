"""An application as Auth0's SDKs make one: JSON at /oauth/token, a multi-resource refresh token, the My Account API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlencode

import httpx2

from providers.simulator.person import consent
from server.oauth.clients.authentication import secret_hash
from server.oauth.rules import TOKEN_EXCHANGE
from tests.conftest import Store
from tests.support.person import Person
from tests.support.rooms.portal_room import CHALLENGE, Room, query_of, running_room
from vault.records import Client, ClientKind, User

FEDERATED = "urn:auth0:params:oauth:grant-type:token-exchange:federated-connection-access-token"
ACCOUNT_TOKEN = "http://auth0.com/oauth/token-type/federated-connection-access-token"
REFRESH = "urn:ietf:params:oauth:token-type:refresh_token"
CALLBACK = "https://app.example/auth/callback"
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"  # RFC 7636 appendix B, of CHALLENGE
SECRET = "s" * 43
ME = "/me/v1/connected-accounts"


@dataclass
class Application:
    """A confidential first-party application and its signed-in person."""

    room: Room
    http: httpx2.AsyncClient
    client: Client
    user: User
    person: Person
    refresh_token: str = field(default="", repr=False)
    tokens: dict[str, object] = field(default_factory=dict[str, object], repr=False)

    @classmethod
    async def register(cls, room: Room, http: httpx2.AsyncClient, **changes: object) -> Application:
        """Register it as an operator for this interface; it receives Slack's and Google's own tokens."""
        client = await room.agent(
            **{
                "kind": ClientKind.MANUAL,
                "name": "Assistant",
                "auth_method": "client_secret_post",
                "secret_hash": secret_hash(SECRET),
                "redirect_uris": (CALLBACK,),
                "grant_types": frozenset({"authorization_code", "refresh_token", TOKEN_EXCHANGE}),
                "metadata": {"auth0": True, "release": {"slack": "full", "google": "full"}},
                **changes,
            },
        )
        user = await room.user()
        return cls(room, http, client, user, await room.signed_in(user))

    @property
    def credentials(self) -> dict[str, str]:
        return {"client_id": self.client.id} | ({} if self.client.is_public else {"client_secret": SECRET})

    async def sign_in(self, **changes: str) -> None:
        """Sign the person in to the application, which redeems the code for tokens, as JSON."""
        query = {
            "response_type": "code",
            "client_id": self.client.id,
            "redirect_uri": CALLBACK,
            "scope": "openid profile email offline_access",
            "state": "client-state",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            "auth0Client": "eyJuYW1lIjoiYXV0aDAifQ",
        } | changes
        page = await self.person.open("/authorize?" + urlencode(query))
        answer = await self.person.submit(page, form="/consent", button=("decision", "allow"))
        code = query_of(answer.headers["location"])["code"]
        redeemed = await self.http.post(
            "/oauth/token",
            json={
                "grant_type": "authorization_code",
                **self.credentials,
                "code": code,
                "redirect_uri": CALLBACK,
                "code_verifier": VERIFIER,
            },
        )
        assert redeemed.status_code == 200, redeemed.text
        self.tokens = redeemed.json()
        self.refresh_token = str(self.tokens["refresh_token"])

    async def me_token(self, scope: str = "create:me:connected_accounts read:me:connected_accounts "
                       "delete:me:connected_accounts") -> str:  # fmt: skip
        """Get an access token for the My Account API with the multi-resource refresh token."""
        answer = await self.refresh(scope=scope)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    async def refresh(self, **changes: str) -> httpx2.Response:
        """Refresh for the My Account API."""
        asked = {"grant_type": "refresh_token", **self.credentials, "refresh_token": self.refresh_token}
        return await self.http.post("/oauth/token", json={**asked, "audience": f"{self.room.url}/me/", **changes})

    async def me(self, method: str, path: str, *, token: str | None = None, **options: object) -> httpx2.Response:
        """Call the My Account API."""
        headers = {"Authorization": f"Bearer {token or await self.me_token()}"}
        return await self.http.request(method, f"{ME}/{path}", headers=headers, **options)  # pyright: ignore[reportArgumentType]

    async def start(self, **changes: object) -> httpx2.Response:
        body = {"connection": "sign-in-with-slack", "redirect_uri": CALLBACK, "state": "connect-state", **changes}
        return await self.me("POST", "connect", json={name: value for name, value in body.items() if value is not None})

    async def to_return(self, started: httpx2.Response, *, person: Person | None = None, account: str = "alice") -> str:
        """Take the person to the provider and back; return the redirect that carries the code."""
        content, browser = started.json(), person or self.person
        ticket = content["connect_params"]["ticket"]
        page = await browser.open(f"{content['connect_uri']}?{urlencode({'ticket': ticket})}")
        answer = await browser.submit(page, {"account": "new"}, form="/connect/", button=("decision", "allow"))
        back = await browser.open(await consent(answer.headers["location"], account=account))
        return str(back.headers["location"])

    async def connect(self, connection: str = "sign-in-with-slack", *, account: str = "alice",
                      **changes: object) -> dict[str, object]:  # fmt: skip
        """Connect an account from start to finish; return it as the API shows it."""
        started = await self.start(connection=connection, **changes)
        assert started.status_code == 201, started.text
        code = query_of(await self.to_return(started, account=account))["connect_code"]
        completed = await self.me(
            "POST",
            "complete",
            json={"auth_session": started.json()["auth_session"], "connect_code": code, "redirect_uri": CALLBACK},
        )
        assert completed.status_code == 201, completed.text
        content: dict[str, object] = completed.json()
        return content

    async def account_token(
        self, changes: Mapping[str, str | None] | None = None, *, encoding: str = "json"
    ) -> httpx2.Response:
        """Call the vault's exchange with the parameters that the SDKs send."""
        wanted: dict[str, str | None] = {
            "grant_type": FEDERATED,
            **self.credentials,
            "subject_token": self.refresh_token,
            "subject_token_type": REFRESH,
            "requested_token_type": ACCOUNT_TOKEN,
            "connection": "sign-in-with-slack",
            **(changes or {}),
        }
        body = {name: value for name, value in wanted.items() if value is not None}
        if encoding == "form":
            return await self.http.post("/oauth/token", data=body)
        return await self.http.post("/oauth/token", json=body)


@asynccontextmanager
async def running_application(store: Store) -> AsyncGenerator[Application]:
    """A vault of its own on this database, with the application and its signed-in person."""
    overrides: dict[str, object] = {"auth0": {"enabled": True}, "server": {"issuer_slash": True}}
    if not store.is_sqlite:
        overrides["database"] = {"url": store.url}
    async with (
        running_room(store.data, overrides=overrides) as room,
        httpx2.AsyncClient(base_url=room.url, timeout=20, trust_env=False) as http,
    ):
        made = await Application.register(room, http)
        await made.sign_in()
        yield made
