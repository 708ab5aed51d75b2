"""Runs the simulator on 127.0.0.1 inside this process, for tests and the demo, and stops it cleanly and quickly."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager

import uvicorn
from pydantic import JsonValue
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from providers.simulator.accounts import CLIENT_ID, CLIENT_SECRET
from providers.simulator.app import build_app
from providers.simulator.control import COMMANDS, Answer
from providers.simulator.misbehave import TRANSPORT
from providers.simulator.state.books import Entry
from providers.simulator.state.directory import Enrolment
from providers.simulator.state.sandbox import Sandbox

SettingsSection = dict[str, str | dict[str, str]]
# APIs of Google that the simulator doesn't have: calls of them end here with 404 instead of at Google.
GOOGLE_ELSEWHERE = (
    "ads",
    "analyticsadmin",
    "analyticsdata",
    "bigquery",
    "bigquery_upload",
    "chat",
    "chat_upload",
    "docs",
    "people",
    "sheets",
    "tasks",
    "youtube",
    "youtube_upload",
)


class _Protocol(HttpToolsProtocol):
    """Puts the connection into the ASGI state, so that a scripted fault can close it during an answer."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope.setdefault("state", {})[TRANSPORT] = self.transport


class QuickServer(uvicorn.Server):
    """Ends as soon as its connections are closed; uvicorn itself first waits, and checks ten times a second."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110 -- no event for it
                    await asyncio.sleep(0.005)
        except TimeoutError:
            for task in self.server_state.tasks:
                task.cancel()
        await self.lifespan.shutdown()


class Simulator:
    """A running simulator, as seen from its process. `sandbox` has all its state."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    @property
    def url(self) -> str:
        """Its origin, without a slash at the end."""
        return self.sandbox.url

    def now(self) -> float:
        """The time at the simulator."""
        return self.sandbox.clock.now()

    def books(self) -> dict[str, list[Entry]]:
        """Everything that has happened so far; see `books.py`, and `families` for the state of every grant."""
        return self.sandbox.ledger()

    def control(self, command: str, /, **body: JsonValue) -> Answer:
        """The same as POST /_control/{command} with this body. Raises ValueError for a bad one."""
        return COMMANDS[command](self.sandbox, body)

    def reset(self) -> None:
        """Reset everything: tokens, faults, posts, books, moved time."""
        self.sandbox.reset()

    def advance(self, seconds: float) -> None:
        """Let time pass at the provider."""
        self.sandbox.clock.advance(seconds)

    def fault(self, endpoint: str, kind: str, **more: JsonValue) -> None:
        """Script a misbehavior: `sim.fault("slack.token.refresh", "drop_after")`."""
        self.control("faults", endpoint=endpoint, kind=kind, **more)

    def slack_settings(self) -> SettingsSection:
        """For `[providers.slack]`."""
        base = f"{self.url}/slack"
        return {
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "authorize_url": f"{base}/oauth/v2/authorize",
            "token_url": f"{base}/api/oauth.v2.access",
            "revoke_url": f"{base}/api/auth.revoke",
            "userinfo_url": f"{base}/api/auth.test",
            "apis": {"web": f"{base}/api"},
        }

    def google_settings(self) -> SettingsSection:
        """For `[providers.google]`."""
        base = f"{self.url}/google"
        return {
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "authorize_url": f"{base}/o/oauth2/v2/auth",
            "token_url": f"{base}/token",
            "revoke_url": f"{base}/revoke",
            "userinfo_url": f"{base}/oauth2/v3/userinfo",
            "apis": {
                "calendar": f"{base}/calendar/v3",
                "drive": f"{base}/drive/v3",
                "drive_upload": f"{base}/upload/drive/v3",
                "gmail": f"{base}/gmail/v1",
                "gmail_upload": f"{base}/upload/gmail/v1",
                **{name: f"{base}/{name}" for name in GOOGLE_ELSEWHERE},
            },
        }

    def brokerage_settings(self) -> SettingsSection:
        """For `[providers.brokerage]`, whose API trusts no one until `trust` is called."""
        return {"apis": {"main": f"{self.url}/brokerage/v1"}}

    def company_settings(self) -> dict[str, object]:
        """For `[sign_in.openid.NAME]`: the company whose people sign in."""
        return {
            "issuer": f"{self.url}/company",
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "title": "Sandbox company",
            "create_users": True,
            "id_jag": True,
        }

    def enroll(self, mode: str, *, scopes: Collection[str] | None = None) -> dict[str, JsonValue]:
        """Make the company vouch for its people at this mode of the families' server; for `providers.NAME.id_jag`."""
        issuer = self.sandbox.issuer_of(mode)
        self.sandbox.directory.services[issuer] = Enrolment(None if scopes is None else frozenset(scopes))
        return {"audience": issuer, "resource": f"{issuer}/api"}

    def trust(self, issuer: str, *, audience: str) -> None:
        """Make the brokerage accept this issuer's tokens for this audience."""
        self.control("trust", issuer=issuer, audience=audience)

    def settings(self) -> Mapping[str, SettingsSection]:
        """Both sections by provider name."""
        return {"slack": self.slack_settings(), "google": self.google_settings()}


def _listen(port: int) -> socket.socket:
    """Names the protocol, because asyncio turns off Nagle's algorithm only then; otherwise each answer takes 40 ms."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
    except OSError:
        listener.close()
        raise
    return listener


@asynccontextmanager
async def running_simulator(*, port: int = 0) -> AsyncGenerator[Simulator]:
    """Serve on 127.0.0.1 until the block ends. Port 0 takes a free one.

    Calls the server's start and stop directly: no separate task, and no signal handlers.
    """
    sandbox = Sandbox()
    listener = _listen(port)
    sandbox.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(
        build_app(sandbox),
        log_config=None,
        access_log=False,
        lifespan="off",
        http=_Protocol,
        ws="none",
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=3,
    )
    config.load()
    server = QuickServer(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    try:
        yield Simulator(sandbox)
    finally:
        sandbox.faults.closing.set()
        await server.shutdown(sockets=[listener])
