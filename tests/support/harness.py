"""Running components for tests: the whole vault in this process on a loopback port, with real storage and HTTP."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import importlib
import itertools
import secrets
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import uvicorn
from starlette.types import ASGIApp

from providers.simulator.local_server import QuickServer
from providers.tools.spec import ToolSpec
from server.app import build_app, open_deployment
from server.deployment import Deployment
from server.http.connections import ConnectionLimits
from server.mcp.offer.registry import load_offer
from server.runtime.uvicorn_server import server_config
from server.settings import Settings, load_settings
from tests.conftest import Store, first_run
from tests.support.person import Person
from vault import users
from vault.keys import passwords
from vault.records import User

FIRST_RUNS = 3
PASSWORD = "a long enough test password"
PAGES = (
    "server.oauth.authorize",
    "server.portal.site",
    "server.api.document",
    "server.proxy.endpoint",
    "server.signals.push_delivery",
)


def free_socket() -> socket.socket:
    """A listening socket on a free loopback port."""
    # otherwise asyncio leaves Nagle on
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    return listening


class _Server(QuickServer):
    """Notices immediately that it must stop, not at the next check, and leaves signals to pytest."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # it also renews the date that answers carry
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._ending.wait()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@asynccontextmanager
async def serve_app(
    app: ASGIApp, listening: socket.socket, *, bounds: ConnectionLimits | None = None
) -> AsyncGenerator[None]:
    """Serve an ASGI application on the socket, as the product does, until the block ends."""
    server = _Server(server_config(app, bounds, patience=2))
    running = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        async with asyncio.timeout(30):
            while not server.started:
                if running.done():
                    running.result()
                await asyncio.sleep(0.005)
        yield
    finally:
        server.stop()
        async with asyncio.timeout(30):
            await running


@dataclass
class Tokens:
    """The tokens that an agent got from the token endpoint."""

    client_id: str
    access_token: str
    refresh_token: str | None
    scope: str


@dataclass
class RunningVault:
    """A vault that listens. `alice` exists, with PASSWORD."""

    url: str
    deployment: Deployment

    @property
    def settings(self) -> Settings:
        return self.deployment.settings

    def person(self) -> Person:
        return Person(self.url)

    async def add_user(self, name: str, *, is_admin: bool = False) -> User:
        hashed = await passwords.hash_password(PASSWORD)
        async with self.deployment.transaction() as transaction:
            return await users.create_user(
                transaction, name, password_hash=hashed, is_admin=is_admin, now=self.deployment.now()
            )

    async def register(self, **metadata: object) -> dict[str, object]:
        """RFC 7591 registration of a public client."""
        body = {
            "client_name": "Test agent",
            "redirect_uris": ["http://127.0.0.1:33418/callback"],
            "token_endpoint_auth_method": "none",
        } | metadata
        async with httpx2.AsyncClient(timeout=30) as http:
            answer = await http.post(f"{self.url}/register", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def authorize(
        self,
        person: Person,
        client_id: str,
        *,
        redirect_uri: str = "http://127.0.0.1:33418/callback",
        scope: str = "tools connections offline_access",
        resource: str | None = None,
        name: str = "alice",
        verifier: str | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> tuple[dict[str, str], str]:
        """Sign in and consent as the person; return the redirect's query and the PKCE verifier."""
        verifier = verifier or secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": redirect_uri,
            "scope": scope,
            "state": secrets.token_urlsafe(8),
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "resource": resource or f"{self.url}/mcp",
        } | dict(extra or {})
        page = await person.open("/authorize?" + urlencode(query))
        if "/sign-in" in str(page.url):
            page = await person.sign_in(name, PASSWORD, page=page)
        if page.status_code == 200:
            page = await person.submit(page, form="/consent", button=("decision", "allow"))
        assert page.status_code in {302, 303}, f"{page.status_code} at {page.url}: {page.text[:400]}"
        answer = {key: values[0] for key, values in parse_qs(urlsplit(page.headers["location"]).query).items()}
        return answer, verifier

    async def redeem(self, client_id: str, code: str, verifier: str, **more: str) -> httpx2.Response:
        """Redeem a code at /token as a public client."""
        body = {
            "grant_type": "authorization_code",
            "client_id": client_id,
            "code": code,
            "code_verifier": verifier,
            "redirect_uri": "http://127.0.0.1:33418/callback",
        } | more
        async with httpx2.AsyncClient(timeout=30) as http:
            return await http.post(f"{self.url}/token", data=body)

    async def agent(self, person: Person, **options: str) -> Tokens:
        """A registered public client with live tokens for the person."""
        client_id = str((await self.register())["client_id"])
        answer, verifier = await self.authorize(person, client_id, **options)  # pyright: ignore[reportArgumentType]
        redeemed = await self.redeem(client_id, answer["code"], verifier)
        assert redeemed.status_code == 200, redeemed.text
        tokens = redeemed.json()
        return Tokens(client_id, tokens["access_token"], tokens.get("refresh_token"), tokens["scope"])


_first_runs: list[dict[str, tuple[int, bytes]]] = []  # the files that each first run left: mode and content
_number_of: dict[Path, int] = {}  # data directory -> the first run that it started with
_living = Counter[int]()  # number of vaults of each that run now
_copies = itertools.count()


@asynccontextmanager
async def first_run_in(data: Path, settings: Settings) -> AsyncGenerator[None]:
    """Let the vault in the block start as if for the second time, unless its storage or keys are unusual.

    A first run creates an RSA key and all tables, which takes longer than most tests. Vaults that run at the same time
    have different keys.
    """
    default = Settings()
    is_usual = (settings.database, settings.keys) == (default.database, default.keys)
    if is_usual and not (data / "master.key").exists():
        _number_of[data] = await _unused_number()
    number = _number_of.get(data)
    if number is None:
        yield
        return
    _living[number] += 1
    try:
        if not (data / "master.key").exists():
            data.mkdir(mode=0o700, exist_ok=True)
            for name, (mode, content) in _first_runs[number].items():
                (data / name).touch(mode)
                (data / name).write_bytes(content)
        yield
    finally:
        _living[number] -= 1


async def _unused_number() -> int:
    """The number of a first run whose keys no running vault has."""
    while True:
        unused = [number for number in range(len(_first_runs)) if not _living[number]]
        if unused and len(_first_runs) >= FIRST_RUNS:
            return unused[next(_copies) % len(unused)]
        with tempfile.TemporaryDirectory(prefix="first-run-") as folder:
            await first_run(Store("sqlite:", Path(folder)))
            left = {one.name: (one.stat().st_mode, one.read_bytes()) for one in Path(folder).iterdir()}
        _first_runs.append(left)


@functools.cache
def load_pages() -> None:
    """Import what a vault loads with its first request, which on a busy machine takes longer than a request may."""
    for name in PAGES:
        importlib.import_module(name)


@asynccontextmanager
async def running_vault(
    data: Path,
    *,
    database_url: str | None = None,
    overrides: Mapping[str, object] | None = None,
    providers: Mapping[str, object] | None = None,
    listening: socket.socket | None = None,
    more_tools: Sequence[ToolSpec] = (),
) -> AsyncGenerator[RunningVault]:
    """Run the whole vault on a free port. `providers`: settings by name, such as `simulator.slack_settings()`."""
    async with AsyncExitStack() as stack:
        listening = stack.enter_context(listening or free_socket())
        port = listening.getsockname()[1]
        sections: dict[str, object] = {"server": {"port": port, "public_url": f"http://localhost:{port}"}}
        if database_url is not None:
            sections["database"] = {"url": database_url}
        if providers is not None:
            sections |= {"providers": providers, "sandbox": {"loopback_upstreams": True}}
        for name, section in (overrides or {}).items():
            old = sections.get(name)
            sections[name] = {**old, **section} if isinstance(old, dict) and isinstance(section, dict) else section
        settings = load_settings(overrides=sections)
        load_pages()
        await stack.enter_async_context(first_run_in(data, settings))
        deployment = await stack.enter_async_context(open_deployment(settings, data=data, is_measured=True))
        if deployment.telemetry is not None:
            await stack.enter_async_context(deployment.telemetry.run(deployment))
        if more_tools:
            tools = (*deployment.tools, *more_tools)
            offer = load_offer(settings, tools, deployment.catalog, late=[])
            deployment.live.current = replace(deployment.live.current, tools=tools, offer=offer)
        async with serve_app(build_app(deployment), listening):
            vault = RunningVault(settings.public_url, deployment)
            await vault.add_user("alice", is_admin=True)
            yield vault
