"""A small application at each face of the simulator, and functions that inspect and change a simulator.

The application builds its requests by hand, so that the simulator's own tests depend on nothing else in the project.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2

from providers.simulator import Simulator, consent
from providers.simulator.accounts import CLIENT_ID, CLIENT_SECRET, PEOPLE, PUBLIC_CLIENT_ID
from providers.simulator.local_server import SettingsSection
from providers.simulator.modes import Mode
from providers.simulator.state.faults import Fault
from providers.simulator.state.sandbox import ServiceAPI

REDIRECT = "http://localhost:8765/connect/callback/test"
VERIFIER = "correct-horse-battery-staple-correct-horse-battery"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
CLIENT = ("sandbox-client", "sandbox-secret")
PUBLIC_CLIENT = ("public-client", "public-secret")
SECOND_CLIENT = ("second-client", "second-secret")
API = "https://www.googleapis.com/auth/"
EVENTS, READONLY = f"{API}calendar.events", f"{API}calendar.events.readonly"


def parameters(location: str) -> dict[str, str]:
    """The query of a redirect."""
    return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}


def slack_message(simulator: Simulator, channel: str) -> str:
    """The `ts` of the oldest message of a channel."""
    return simulator.sandbox.workspace.channels[channel].messages[0].ts


def google_event(simulator: Simulator, person: str) -> str:
    """The ID of an event that this person adds to their own calendar."""
    return simulator.sandbox.calendars.put(PEOPLE[person].email, "Moving target", now=simulator.now()).id


async def wait_until_held(simulator: Simulator, endpoint: str, *, count: int = 1, seconds: float = 30.0) -> None:
    """Return once this many requests wait at a `hold` fault. Raises TimeoutError."""
    probe, faults = Fault(endpoint=endpoint, kind="hold"), simulator.sandbox.faults
    async with asyncio.timeout(seconds):
        while sum(probe.matches(name) for name in faults.held) < count:
            await asyncio.sleep(0.005)


def make_password(simulator: Simulator, account: str) -> str:
    """A new password with which this account signs in to the mail service."""
    word = simulator.sandbox.keys.passwords[account] = secrets.token_urlsafe(12)
    return word


def make_client(simulator: Simulator, account: str) -> tuple[str, str]:
    """Client credentials of the mail service for this account."""
    client_id, secret = f"client-{secrets.token_hex(4)}", secrets.token_urlsafe(24)
    simulator.sandbox.keys.clients[client_id] = (secret, account)
    return client_id, secret


def public_slack_settings(simulator: Simulator) -> SettingsSection:
    """For `[providers.slack]`: the app with PKCE turned on, which has no secret."""
    section = {**simulator.slack_settings(), "client_id": PUBLIC_CLIENT_ID}
    del section["client_secret"]
    return section


def family_settings(simulator: Simulator, mode: str, *, apis: Iterable[str] = ()) -> SettingsSection:
    """For a `[providers.NAME]` whose service behaves like this mode; `apis` are the keys of its file's [apis]."""
    base = f"{simulator.url}/families/{mode}"
    return {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "authorize_url": f"{base}/authorize",
        "token_url": f"{base}/token",
        "revoke_url": f"{base}/revoke",
        "userinfo_url": f"{base}/identity",
        "apis": dict.fromkeys(apis, f"{base}/api"),
        **({"refresh_url": f"{base}/refresh"} if simulator.sandbox.modes[mode].refresh_at == "refresh" else {}),
        **({} if simulator.sandbox.modes[mode].long_lived is None else {"long_lived_url": f"{base}/longer"}),
    }


def add_mode(simulator: Simulator, name: str, mode: Mode) -> None:
    """Add a mode to the families' server, at `/families/{name}/`; it survives a reset."""
    simulator.sandbox.modes[name] = mode


def add_api(simulator: Simulator, name: str, api: ServiceAPI) -> None:
    """Let this API answer the operations of the modes that name it; it survives a reset."""
    simulator.sandbox.apis[name] = api


@dataclass(frozen=True)
class App:
    """What both faces have in common."""

    simulator: Simulator
    http: httpx2.AsyncClient
    base: str
    authorize_path: str
    token_path: str
    defaults: Mapping[str, str]

    def authorize_url(self, **changes: str | None) -> str:
        wanted = {"client_id": CLIENT[0], "redirect_uri": REDIRECT, "state": "st-1", **self.defaults, **changes}
        query = urlencode({name: value for name, value in wanted.items() if value is not None})
        return f"{self.base}{self.authorize_path}?{query}"

    async def code(
        self, *, account: str = "alice", scopes: Collection[str] | None = None, **changes: str | None
    ) -> str:
        location = await consent(self.authorize_url(**changes), account=account, scopes=scopes)
        return parameters(location)["code"]

    async def token(
        self, *, client: tuple[str, str] | None = CLIENT, post: bool = False, **form: str
    ) -> httpx2.Response:
        if client is not None and post:
            form = {**form, "client_id": client[0], "client_secret": client[1]}
        auth = None if post else client
        return await self.http.post(self.base + self.token_path, data=form, auth=auth)

    async def redeem(self, code: str, *, client: tuple[str, str] = CLIENT, **form: str) -> httpx2.Response:
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, **form}
        return await self.token(client=client, **form)

    async def refresh(self, refresh_token: str, *, client: tuple[str, str] = CLIENT, **form: str) -> httpx2.Response:
        return await self.token(client=client, grant_type="refresh_token", refresh_token=refresh_token, **form)


class SlackApp(App):
    """An app in the sandbox workspace."""

    def __init__(self, simulator: Simulator, http: httpx2.AsyncClient) -> None:
        super().__init__(
            simulator,
            http,
            f"{simulator.url}/slack",
            "/oauth/v2/authorize",
            "/api/oauth.v2.access",
            {"user_scope": "chat:write,channels:read,channels:history"},
        )

    async def connect(self, *, account: str = "alice", **changes: str | None) -> dict[str, str]:
        """The user's token and refresh token."""
        answer = (await self.redeem(await self.code(account=account, **changes))).json()
        return answer["authed_user"]

    async def call(self, method: str, token: str | None, /, **arguments: str) -> dict[str, object]:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        answer = await self.http.post(f"{self.base}/api/{method}", data=arguments, headers=headers)
        assert answer.status_code == 200
        return answer.json()


class GoogleApp(App):
    """An app with a Google calendar."""

    def __init__(self, simulator: Simulator, http: httpx2.AsyncClient) -> None:
        super().__init__(
            simulator,
            http,
            f"{simulator.url}/google",
            "/o/oauth2/v2/auth",
            "/token",
            {"response_type": "code", "scope": f"openid email {EVENTS} {READONLY}", "access_type": "offline"},
        )

    async def connect(
        self, *, account: str = "alice", scopes: Collection[str] | None = None, **changes: str | None
    ) -> dict[str, str]:
        return (await self.redeem(await self.code(account=account, scopes=scopes, **changes))).json()

    async def api(
        self, verb: str, path: str, token: str | None, *, json: object = None, **query: str
    ) -> httpx2.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        url = f"{self.base}/calendar/v3{path}"
        return await self.http.request(verb, url, params=query, json=json, headers=headers)
