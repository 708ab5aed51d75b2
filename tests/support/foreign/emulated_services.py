"""Five services of emulate behind the strict layer, and a vault whose provider settings point at them.

The services themselves define the scopes that calls need: Google's discovery documents, the permissions on GitHub's and
Microsoft's reference pages, emulate's own strict mode for Slack and Linear.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult
from starlette.datastructures import Headers

from providers.simulator.local_server import GOOGLE_ELSEWHERE
from server.oauth import tokens
from tests.generating import google
from tests.support.foreign.foreign import Somebody, drive_program, newcomer
from tests.support.foreign.strict_layer import App, Face, StrictLayer
from tests.support.harness import RunningVault, free_socket, running_vault, serve_app
from tests.support.person import Person
from tests.support.rooms.mcp_room import text_of
from vault import connections
from vault.exchange.exchange import ExchangeRequest, UpstreamToken, exchange
from vault.records import Connection, Principal

NAMES = ("slack", "google", "github", "microsoft", "linear")
AUTH = "https://www.googleapis.com/auth/"
IDENTITY = frozenset({"openid", "email", f"{AUTH}userinfo.email"})
HOUR = 3600
ACCOUNT = "carol"  # the second user of every service: emulate treats bad tokens as the first one's
MAIL = "carol@example.com"


@cache
def _google_methods() -> tuple[tuple[str, re.Pattern[str], frozenset[str]], ...]:
    found: list[tuple[str, re.Pattern[str], frozenset[str]]] = []
    for name in google.DOCUMENTS:
        document = google.document(name)
        for method in google.methods(document):
            path = re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(f"/{document['servicePath']}{method['path']}"))
            found.append((str(method["httpMethod"]), re.compile(path), frozenset(method.get("scopes", []))))
    return tuple(found)


def google_needs(method: str, path: str) -> frozenset[str] | None:
    """Any one of the scopes that Google's discovery documents name."""
    if path == "/oauth2/v2/userinfo":
        return IDENTITY
    return next((scopes for verb, there, scopes in _google_methods() if verb == method and there.fullmatch(path)), None)


# docs.github.com/rest/authentication/permissions-required-for-github-apps; an issue's endpoints serve pull requests too
_GITHUB: tuple[tuple[str, str, frozenset[str]], ...] = (
    ("GET", r"/user", frozenset()),
    ("GET", r"/search/issues", frozenset()),
    ("GET", r"/repos/[^/]+/[^/]+/issues(/\d+(/comments)?)?", frozenset({"issues:read", "pull_requests:read"})),
    ("POST", r"/repos/[^/]+/[^/]+/issues", frozenset({"issues:write"})),
    ("POST", r"/repos/[^/]+/[^/]+/issues/\d+/comments", frozenset({"issues:write", "pull_requests:write"})),
    ("GET", r"/repos/[^/]+/[^/]+/pulls(/\d+)?", frozenset({"pull_requests:read"})),
    ("GET", r"/repos/[^/]+/[^/]+/contents/.+", frozenset({"contents:read"})),
    ("GET", r"/repos/[^/]+/[^/]+/git/trees/[^/]+", frozenset({"contents:read"})),
)


def github_needs(method: str, path: str) -> frozenset[str] | None:
    """Any one of the permissions that GitHub's reference names."""
    return next((scopes for verb, there, scopes in _GITHUB if verb == method and re.fullmatch(there, path)), None)


def microsoft_needs(method: str, path: str) -> frozenset[str] | None:
    """Of Graph, emulate has only the person."""
    return frozenset({"User.Read"}) if (method, path) == ("GET", "/v1.0/me") else None


def left_to_emulate(method: str, path: str) -> frozenset[str] | None:
    """Its strict mode judges scopes."""
    return frozenset() if path.startswith("/api/") or (method, path) == ("POST", "/graphql") else None


FACES: Mapping[str, Face] = {
    "slack": Face(
        authorize="/oauth/v2/authorize",
        pick="/oauth/v2/authorize/callback",
        token="/api/oauth.v2.access",
        revoke="/api/auth.revoke",
        needs=left_to_emulate,
        scope_param="user_scope",
        separator=",",
        client_auth="client_secret_basic",
        pkce="refused",
        root="authed_user",
        errors="ok_flag",
    ),
    "google": Face(
        authorize="/o/oauth2/v2/auth",
        pick="/o/oauth2/v2/auth/callback",
        token="/oauth2/token",
        revoke="/oauth2/revoke",
        needs=google_needs,
        lifetime=HOUR,
        narrows=True,
    ),
    "github": Face(
        authorize="/login/oauth/authorize",
        pick="/login/oauth/callback",
        token="/login/oauth/access_token",
        needs=github_needs,
        app_level=True,
    ),
    "microsoft": Face(
        authorize="/oauth2/v2.0/authorize",
        pick="/oauth2/v2.0/authorize/callback",
        token="/oauth2/v2.0/token",
        needs=microsoft_needs,
        lifetime=HOUR,
        narrows=True,
    ),
    "linear": Face(
        authorize="/oauth/authorize",
        pick="/oauth/authorize/callback",
        token="/oauth/token",
        revoke="/oauth/revoke",
        needs=left_to_emulate,
        separator=",",
        always=frozenset({"read"}),
        lifetime=24 * HOUR,
    ),
}

SCOPES: Mapping[str, frozenset[str]] = {
    "slack": frozenset(
        ["chat:write", "channels:read", "channels:history", "groups:read", "im:write", "users:read", "reactions:write"]
    ),
    "google": IDENTITY
    | {
        AUTH + name
        for name in (
            "calendar.events",
            "calendar.events.readonly",
            "calendar.calendarlist.readonly",
            "calendar.freebusy",
        )
    }
    | {AUTH + name for name in ("gmail.readonly", "gmail.compose", "gmail.send", "drive.readonly")},
    "github": frozenset({"metadata:read", "contents:read", "issues:write", "pull_requests:write"}),
    "microsoft": frozenset(
        ["User.Read", "openid", "profile", "email", "offline_access", "Mail.Read", "Calendars.Read"]
    ),
    "linear": frozenset({"read", "write", "issues:create", "comments:create"}),
}


def _settings(name: str, at: str) -> dict[str, object]:
    """The operator's URLs for a service, replaced as the documentation says."""
    face = FACES[name]
    found: dict[str, object] = {"authorize_url": at + face.authorize, "token_url": at + face.token}
    if face.revoke is not None:
        found["revoke_url"] = at + face.revoke
    match name:
        case "slack":
            found["apis"] = {"web": f"{at}/api"}
        case "google":
            found["userinfo_url"] = f"{at}/oauth2/v2/userinfo"
            drive, gmail = f"{at}/drive/v3", f"{at}/gmail/v1"
            uploads = {"drive_upload": f"{at}/upload/drive/v3", "gmail_upload": f"{at}/upload/gmail/v1"}
            found["apis"] = {"calendar": f"{at}/calendar/v3", "drive": drive, "gmail": gmail, **uploads}
            found["apis"] |= {name: f"{at}/{name}" for name in GOOGLE_ELSEWHERE}
        case "github":
            found["revoke_url"] = f"{at}/applications/{{client_id}}/grant"
            found["apis"] = {"rest": at}
        case "microsoft":
            found["apis"] = {"graph": f"{at}/v1.0"}
        case _:
            found |= {"userinfo_url": f"{at}/graphql", "apis": {"main": at}}
    return found


def _seed(name: str, app: App) -> dict[str, object]:
    """What emulate knows: a decoy user for bad tokens, then the person, and something to read."""
    ghost, person = {"email": "ghost@example.com", "name": "Ghost"}, {"email": MAIL, "name": "Carol"}
    registered = {
        "client_id": app.client_id,
        "client_secret": app.client_secret,
        "name": "Vault",
        "redirect_uris": [app.redirect_uri],
    }
    match name:
        case "slack":
            users = [{"name": "ghost", "email": ghost["email"]}, {"name": ACCOUNT, "email": MAIL}]
            app_of = registered | {"scopes": [], "user_scopes": sorted(app.scopes)}
            channels = [{"name": "general", "topic": "Everything"}, {"name": "garden", "topic": "Hedges"}]
            return {"users": users, "channels": channels, "oauth_apps": [app_of], "strict_scopes": True}
        case "google":
            event = {
                "id": "planting",
                "user_email": MAIL,
                "calendar_id": "primary",
                "summary": "Planting",
                "start_date_time": "2036-03-01T09:00:00.000Z",
                "end_date_time": "2036-03-01T10:00:00.000Z",
            }
            calendar = {"id": "primary", "user_email": MAIL, "summary": MAIL, "primary": True, "time_zone": "UTC"}
            message = {
                "id": "seeds",
                "user_email": MAIL,
                "from": "shop@example.com",
                "to": MAIL,
                "subject": "Your seeds",
                "body_text": "They are on their way.",
                "label_ids": ["INBOX", "UNREAD"],
            }
            file = {
                "id": "beds",
                "user_email": MAIL,
                "name": "Beds.txt",
                "mime_type": "text/plain",
                "data": "Three beds.",
            }
            return {
                "users": [ghost, person],
                "drive_items": [file | {"data": "Three beds."}],
                "oauth_clients": [registered],
                "calendars": [calendar],
                "calendar_events": [event],
                "messages": [message],
            }
        case "github":
            users = [{"login": "aghost", "name": "Ghost"}, {"login": ACCOUNT, "name": "Carol", "email": MAIL}]
            repository = {"owner": ACCOUNT, "name": "garden", "auto_init": True}
            return {"users": users, "repos": [repository], "oauth_apps": [registered]}
        case "microsoft":
            return {"users": [ghost, person], "oauth_clients": [registered]}
        case _:
            return {
                "users": [ghost | {"admin": True}, person],
                "teams": [{"key": "ENG", "name": "Engineering"}],
                "issues": [{"team": "ENG", "title": "Trim the hedge", "description": "It is too tall."}],
                "oauth_apps": [registered | {"scopes": sorted(app.scopes), "actor": "user"}],
                "strict_scopes": True,
            }


@dataclass
class EmulatedServices:
    """The services, a vault, a person with a browser, and an agent of theirs."""

    layers: Mapping[str, StrictLayer]
    urls: Mapping[str, str]
    bare: Mapping[str, str]  # emulate itself, without the layer
    apps: Mapping[str, App]
    vault: RunningVault
    somebody: Somebody
    agent: Principal
    token: str  # the agent's, for the MCP endpoint

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Client]:
        """The official client with the agent's token."""
        headers = {"authorization": f"Bearer {self.token}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http,
            Client(streamable_http_client(f"{self.vault.url}/mcp", http_client=http)) as client,
        ):
            yield client

    async def call(self, name: str, /, **arguments: object) -> CallToolResult:
        """Call a tool; a link that it answers with is followed, and the call repeated."""
        async with self.client() as client:
            result = await client.call_tool(name, arguments)
            if (link := link_in(result)) is None:
                return result
            await self.connect(link)
            return await client.call_tool(name, arguments)

    async def connect(self, link: str) -> None:
        """Agree on our page, pick the account on emulate's page, and return."""
        browser = self.somebody.browser
        self.somebody.links += 1
        page = await browser.submit(await browser.open(link), form="/connect/", button=("decision", "allow"))
        if "location" in page.headers:
            page = await browser.open(await self.pick(page.headers["location"]))
        assert page.status_code == 200, page.text

    async def pick(self, url: str) -> str:
        """Pick the person's account; return where emulate sends the browser."""
        async with Person(url) as there:
            page = await there.open(url)
            assert page.status_code == 200, page.text
            forms = [at for at, form in enumerate(_forms(page.text)) if ACCOUNT in form.lower()]
            page = await there.submit(page, form=forms[0])
            assert page.status_code == 302, page.text
            return page.headers["location"]

    async def exchange(self, name: str) -> UpstreamToken:
        """Get what the vault gives the agent for a service, with everything allowed."""
        deployment = self.vault.deployment
        request = ExchangeRequest(self.agent, name, None, purpose="test")
        return await exchange(request, vault=deployment.vault, now=deployment.now())

    async def connection(self, name: str) -> Connection:
        """The person's connection there."""
        held = await connections.list_connections(self.vault.deployment.database, self.agent.user_id)
        return next(one for one in held if one.provider == name)

    def advance(self, seconds: int) -> None:
        """Let time pass at the vault and at the services."""
        self.vault.deployment.database.clock_offset += seconds
        for layer in self.layers.values():
            layer.now += seconds


def _forms(html: str) -> list[str]:
    return re.findall(r"<form\b.*?</form>", html, re.DOTALL)


def link_in(result: CallToolResult) -> str | None:
    """The link to our connect page, if a call answers with one."""
    found = re.search(r"https?://[^\s)>\"]+/connect/[^\s)>\"]+", text_of(result))
    return found[0] if result.is_error and found is not None else None


@asynccontextmanager
async def open_emulated(folder: Path) -> AsyncGenerator[EmulatedServices]:
    """Start everything; stop it at the end."""
    async with contextlib.AsyncExitStack() as stack:
        sockets: dict[str, socket.socket] = {name: stack.enter_context(free_socket()) for name in NAMES}
        urls = {name: f"http://127.0.0.1:{one.getsockname()[1]}" for name, one in sockets.items()}
        listening = stack.enter_context(free_socket())
        callback = f"http://localhost:{listening.getsockname()[1]}/connect/callback"
        apps = {name: App(f"vault-{name}", f"secret-of-{name}", f"{callback}/{name}", SCOPES[name]) for name in NAMES}
        seed = json.dumps({"services": {name: _seed(name, apps[name]) for name in NAMES}, "addresses": urls})
        emulate = await stack.enter_async_context(drive_program("emulated.mjs", seed, folder=folder))
        bare = {name: str(url) for name, url in (await emulate.answer()).items()}
        layers = {name: StrictLayer(FACES[name], apps[name], bare[name]) for name in NAMES}
        for name, layer in layers.items():
            stack.push_async_callback(layer.aclose)
            await stack.enter_async_context(serve_app(layer.asgi, sockets[name]))
        providers = {
            name: _settings(name, urls[name]) | {"client_id": app.client_id, "client_secret": app.client_secret}
            for name, app in apps.items()
        }
        vault = await stack.enter_async_context(
            running_vault(folder / "data", providers=providers, listening=listening)
        )
        somebody = await stack.enter_async_context(newcomer(vault))
        held = await vault.agent(somebody.browser, name=somebody.name)
        headers = Headers({"authorization": f"Bearer {held.access_token}"})
        agent = await tokens.authenticate(vault.deployment, headers, method="POST", path="/mcp")
        yield EmulatedServices(layers, urls, bare, apps, vault, somebody, agent, held.access_token)
