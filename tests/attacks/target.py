"""The vault under attack: a separate process, with sandbox providers and one provider that is scripted here.

Nothing here looks inside it. People are created with commands, accounts are connected on its pages, and tokens come
from its endpoints, as usual.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import ECKey

from providers.definitions.catalog import load_catalog
from providers.simulator.person import consent
from tests.support.doubles.scripted_server import Arrival, Reply, ScriptedServer, json_reply, scripted_server
from tests.support.person import Person
from tests.support.processes import Place, free_port
from tests.support.rooms.oauth_world import sign_jwt

PASSWORD = "a long enough test password"
REDIRECT = "https://agent.example/callback"
LOOPBACK = "http://127.0.0.1:33418/callback"
UPSTREAM = "gho_canary/0123456789=+abcdef"  # the scripted provider's token: it must never leave the vault
MODERN, LEGACY = "2026-07-28", "2025-11-25"
API = "https://api.example/v1"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
ACCESS = "urn:ietf:params:oauth:token-type:access_token"
JWT = "urn:ietf:params:oauth:token-type:jwt"
_PORTAL = re.compile(r"(portal)")
_PROMPT = re.compile(r"enter this one-time secret:\s+(\S+)")
_RECENT = 1200  # seconds
RUNNING: list[Target] = []
_CLIENTS = {
    "backend": ("--confidential", "--exchange", "--redirect-uri", REDIRECT, "--release", "proxy"),
    "rival": ("--confidential", "--exchange", "--redirect-uri", REDIRECT, "--resource", API),
    "desktop": ("--redirect-uri", "http://127.0.0.1/callback"),
    "device": ("--device", "--redirect-uri", REDIRECT),
}
_WORKER = (
    *("--exchange", "--worker-connection", "slack", "--worker-scope", "chat:write"),
    *("--worker-address", "127.0.0.1", "--worker-address", "::1"),
)
ADMIN_CALLS = 600  # per minute and client at the Admin API
REFRESH_GRACE = 2  # seconds, so that an attack needn't wait for ten minutes
_CONFIG = f"""
[server]
port = {{port}}
[registration]
per_address_hourly = 100000
total_hourly = 100000
[sign_in]
failures_per_account = 100
failures_per_address = 1000
waiting_requests_per_address = 100000
[admin]
requests_per_minute = {ADMIN_CALLS}
[tools]
calls_per_minute = 100000
[tokens]
refresh_grace = {REFRESH_GRACE}
per_agent_hourly = 1000000
[proxy]
per_agent_hourly = 1000000
[providers.github]
client_id = "ours"
client_secret = "upstream-secret-canary"
authorize_url = "{{evil}}/authorize"
token_url = "{{evil}}/token"
revoke_url = "{{evil}}/revoke"
apis = {{{{ rest = "{{evil}}/rest" }}}}
"""
# Shipped providers on the scripted server, under their names, for attacks on request rules.
SCRIPTED = ("microsoft", "atlassian", "notion", "salesforce", "hubspot", "dropbox", "box")
_SHELF = load_catalog()


def _scripted_provider(name: str, evil: str) -> str:
    provider, at = _SHELF.provider(name), f"{evil}/{name}"
    apis = ", ".join(f'{key} = "{at}/api/{key}"' for key in provider.apis)
    lines = [f"[providers.{name}]", 'client_id = "ours"', 'client_secret = "upstream-secret-canary"']
    lines += [f'{key}_url = "{at}/{key}"' for key in ("authorize", "token", "revoke")]
    lines += [f'userinfo_url = "{at}/userinfo"'] if provider.identity.url is not None else []
    return "\n".join([*lines, f"apis = {{ {apis} }}", ""])


def pkce() -> tuple[str, str]:
    """A verifier and its challenge."""
    verifier = secrets.token_urlsafe(48)
    return verifier, base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def query_of(url: str) -> dict[str, str]:
    """The query of a URL, one value per name."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query, keep_blank_values=True).items()}


def new_key() -> ECKey:
    """Make a key for proofs and assertions."""
    return ECKey.import_key(ec.generate_private_key(ec.SECP256R1()))


def thumbprint(key: ECKey) -> str:
    """RFC 7638."""
    return key.thumbprint()


@dataclass(frozen=True)
class Agent:
    """A client with its tokens."""

    client_id: str
    token: str = field(repr=False)
    refresh: str | None = field(default=None, repr=False)
    more: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


@dataclass
class Target:
    """The running vault. `provider` is the scripted GitHub, alice the admin, and mallory an ordinary person."""

    place: Place
    provider: ScriptedServer
    http: httpx2.AsyncClient
    alice: Person
    mallory: Person
    stack: AsyncExitStack = field(repr=False)
    server: Server = field(repr=False)
    clients: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    worker_key: ECKey | None = None
    kept: dict[str, object] = field(default_factory=dict[str, object])
    signed_in_at: float = field(default_factory=time.monotonic)

    async def keep_admin(self) -> None:
        """Have alice sign in again before her sign-in is too old for administration (30 minutes)."""
        if time.monotonic() - self.signed_in_at > _RECENT:
            self.alice.http.cookies.clear()
            page = await self.alice.sign_in("alice", PASSWORD)
            assert page.status_code == 200, page.text
            self.signed_in_at = time.monotonic()

    @property
    def url(self) -> str:
        return self.place.url

    @property
    def host(self) -> str:
        return f"localhost:{self.place.port}"

    async def browser(self, name: str | None = None) -> Person:
        """A browser without cookies, or one where a person just signed in."""
        person = await self.stack.enter_async_context(Person(self.url))
        if name is not None:
            page = await person.sign_in(name, PASSWORD)
            assert page.status_code == 200, page.text
        return person

    async def command(self, *words: str, feed: str = "") -> str:
        """Run a command as the operator; return standard output."""
        code, out, err = await self.place.run(*words, feed=feed)
        assert code == 0, (words, err)
        return out

    # agents

    async def register(self, **metadata: object) -> dict[str, object]:
        """Register a client anonymously (RFC 7591)."""
        body = {"client_name": "Agent", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"} | metadata
        answer = await self.http.post("/register", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def authorize_url(self, client_id: str, challenge: str, **changes: str | None) -> str:
        """The honest authorization request with changes; None omits a parameter."""
        query: dict[str, str | None] = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": REDIRECT,
            "scope": "tools connections offline_access",
            "state": secrets.token_urlsafe(8),
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "resource": f"{self.url}/mcp",
        }
        chosen = {name: value for name, value in (query | changes).items() if value is not None}
        return "/authorize?" + urlencode(chosen)

    async def code(self, client_id: str, person: Person | None = None, **changes: str | None) -> tuple[str, str]:
        """A code for a person who consented, and the verifier."""
        person, (verifier, challenge) = person or self.alice, pkce()
        page = await person.open(self.authorize_url(client_id, challenge, **changes))
        if page.status_code == 200:
            page = await person.submit(page, form="/consent", button=("decision", "allow"))
        assert page.status_code == 303, f"{page.status_code}: {page.text[:300]}"
        return query_of(page.headers["location"])["code"], verifier

    async def redeem(self, client: str, code: str, verifier: str, /, **changes: str | None) -> httpx2.Response:
        """Send the honest token request with changes."""
        form: dict[str, str | None] = {
            "grant_type": "authorization_code",
            "client_id": client,
            "code": code,
            "code_verifier": verifier,
            "redirect_uri": REDIRECT,
        }
        headers = {"dpop": proof} if (proof := changes.pop("dpop", None)) else {}
        chosen = {name: value for name, value in (form | changes).items() if value is not None}
        return await self.http.post("/token", data=chosen, headers=headers)

    async def agent(self, person: Person | None = None, *, client: str | None = None, **changes: str | None) -> Agent:
        """A client that the person authorized."""
        credentials: Mapping[str, str | None] = self.clients.get(client or "", {})
        client_id = str(credentials.get("client_id") or client or (await self.register())["client_id"])
        code, verifier = await self.code(client_id, person, **changes)
        secret = credentials.get("client_secret")
        redirect = changes.get("redirect_uri") or REDIRECT
        answer = await self.redeem(client_id, code, verifier, client_secret=secret, redirect_uri=redirect)
        assert answer.status_code == 200, answer.text
        content = answer.json()
        return Agent(client_id, content["access_token"], content.get("refresh_token"), content)

    async def token(self, form: Mapping[str, str], **headers: str) -> httpx2.Response:
        """POST /token."""
        return await self.http.post("/token", data=dict(form), headers=headers)

    async def exchange(self, client: str, subject: str, **more: str | None) -> httpx2.Response:
        """Exchange a token as one of `clients` (RFC 8693)."""
        form: dict[str, str | None] = {
            "grant_type": EXCHANGE,
            **self.clients[client],
            "subject_token": subject,
            "subject_token_type": ACCESS,
        }
        return await self.token({name: value for name, value in (form | more).items() if value is not None})

    # MCP

    async def call(self, agent: Agent, tool: str, arguments: Mapping[str, object] | None = None) -> httpx2.Response:
        """Call a tool in MCP 2026-07-28."""
        return await self.mcp(agent, "tools/call", {"name": tool, "arguments": dict(arguments or {})}, name=tool)

    async def mcp(
        self,
        agent: Agent | None,
        method: str,
        params: Mapping[str, object] | None = None,
        *,
        name: str | None = None,
        **headers: str,
    ) -> httpx2.Response:
        """Send one request of MCP 2026-07-28."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "attack", "version": "1"},
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": meta, **(params or {})}}
        sent = {
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": MODERN,
            "mcp-method": method,
            **({} if name is None else {"mcp-name": name}),
            **({} if agent is None else agent.headers),
            **{key.replace("_", "-"): value for key, value in headers.items()},
        }
        return await self.http.post("/mcp", json=body, headers=sent)

    # accounts

    async def connect(
        self, person: Person, provider: str, *, account: str = "alice", scopes: list[str] | None = None
    ) -> None:
        """Connect an account through the pages. At the scripted provider, everyone is `account`."""
        page = await person.open(f"/connections/connect?provider={provider}")
        answer = await person.submit(page, form="/connections/connect")
        location = answer.headers["location"]
        if provider in {"github", *SCRIPTED}:
            asked = query_of(location)
            self.kept["login"] = account
            back = f"{asked['redirect_uri']}?" + urlencode({"code": secrets.token_urlsafe(8), "state": asked["state"]})
        else:
            back = await consent(location, account=account)
        page = await person.open(back)
        assert page.status_code == 200, page.text

    async def connection_ids(self, user: str) -> dict[str, str]:
        """The person's connections by provider."""
        rows = json.loads(await self.command("connections", "list", "--user", user, "--json"))
        return {row["provider"]: row["id"] for row in rows}


def provider_answers(kept: dict[str, object], arrival: Arrival) -> Reply:
    """The scripted GitHub: issues one token, and replies with what a test put into `kept["reply"]`."""
    name, _, rest = arrival.path[1:].partition("/")
    if name in SCRIPTED:
        return _shelf_answers(name, rest)
    match arrival.path:
        case "/token":
            return json_reply({"access_token": UPSTREAM, "token_type": "bearer", "scope": ""})
        case "/rest/user":
            login = str(kept.get("login", "alice"))
            return json_reply({"login": login, "id": int.from_bytes(login.encode()[:4]), "name": login})
        case _:
            reply = kept.get("reply")
            return reply if isinstance(reply, Reply) else json_reply({"ok": True})


def _shelf_answers(name: str, path: str) -> Reply:
    """Another provider's token, which can do everything regardless of the request, and its account."""
    who = {"id": "1", "account_id": "1", "user_id": "1", "login": "alice", "email": "alice@example.com"}
    who |= {"userPrincipalName": "alice", "preferred_username": "alice", "bot_id": "1", "workspace_name": "alice"}
    if path == "token":
        scopes = _SHELF.provider(name).scope.separator.join(_SHELF.provider(name).scopes)
        return json_reply(
            {"access_token": UPSTREAM, "token_type": "bearer", "refresh_token": "r", "scope": scopes, **who}
        )
    return json_reply({"ok": True, **who})


@asynccontextmanager
async def running_target(folder: Path, *, database: str | None = None, more: str = "") -> AsyncGenerator[Target]:
    """Start everything, with people and clients; stop it at the end. `database`: a PostgreSQL URL; `more`: settings."""
    kept: dict[str, object] = {}
    data = folder / "data"
    data.mkdir(mode=0o700)
    port = free_port()
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(scripted_server(lambda one: provider_answers(kept, one)))
        config = folder / "config.toml"
        shelf = "".join(_scripted_provider(name, provider.url) for name in SCRIPTED)
        stored = "" if database is None else f'[database]\nurl = "{database}"\n'
        config.write_text(_CONFIG.format(port=port, evil=provider.url) + shelf + stored + more, encoding="utf-8")
        place = _SandboxPlace(data / "sandbox", port, config)
        server = Server(place, data)
        secret = await stack.enter_async_context(_run_server(server))
        http = await stack.enter_async_context(httpx2.AsyncClient(base_url=place.url, timeout=30, trust_env=False))
        alice = await stack.enter_async_context(Person(place.url))
        mallory = await stack.enter_async_context(Person(place.url))
        target = Target(place, provider, http, alice, mallory, stack, server, kept=kept)
        page = await alice.open("/first-run")
        again = {"secret": secret, "name": "alice", "password": PASSWORD, "password_again": PASSWORD}
        page = await alice.submit(page, again, form="/first-run")
        assert page.status_code == 200, page.text
        await _populate(target, folder)
        RUNNING.append(target)
        try:
            yield target
        finally:
            RUNNING.remove(target)


@dataclass
class _SandboxPlace(Place):
    config: Path = Path()

    def arguments(self, *command: str) -> list[str]:
        return [*super().arguments(*command), "--config", str(self.config)]


async def verify_copy(target: Target, data: Path) -> tuple[int, str]:
    """Run `activity verify` on a copy of the vault's data; return the exit code and all output."""
    place = target.place
    assert isinstance(place, _SandboxPlace)
    code, out, err = await _SandboxPlace(data, place.port, place.config).run("activity", "verify")
    return code, out + err


def command_line(target: Target) -> Place:
    """The operator's command line, which may call the scripted providers as the sandbox does."""
    place = target.place
    assert isinstance(place, _SandboxPlace)
    config = place.config.with_name("command_line.toml")
    text = place.config.read_text(encoding="utf-8")
    config.write_text(f"{text}[sandbox]\nloopback_upstreams = true\n", encoding="utf-8")
    return _SandboxPlace(place.data, place.port, config)


@asynccontextmanager
async def replica(target: Target, folder: Path) -> AsyncGenerator[int]:
    """Start another process of the same vault with the same public URL on its own port; return the port."""
    place, port = target.place, free_port()
    assert isinstance(place, _SandboxPlace)
    config = folder / "replica.toml"
    ours = f'port = {port}\npublic_url = "{target.url}"'
    text = place.config.read_text(encoding="utf-8").replace(f"port = {place.port}", ours)
    config.write_text(f"{text}[sandbox]\nloopback_upstreams = true\n", encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *_SandboxPlace(place.data, port, config).arguments("serve"),
        stderr=asyncio.subprocess.DEVNULL,
        env=place.environment(),
    )
    try:
        async with (
            httpx2.AsyncClient(trust_env=False, headers={"host": target.host}, timeout=30) as http,
            asyncio.timeout(60),
        ):
            while True:
                assert process.returncode is None
                with contextlib.suppress(httpx2.HTTPError):
                    if (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200:
                        break
                await asyncio.sleep(0.1)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(30):
            await process.wait()


@dataclass
class Server:
    """The server process, which can be stopped and restarted."""

    place: _SandboxPlace
    data: Path
    process: asyncio.subprocess.Process | None = None

    async def start(self, *, until: re.Pattern[str]) -> str:
        """Start it and wait until standard error matches; return the match."""
        place, errors = self.place, self.data / "errors.txt"
        arguments = Place(self.data, place.port).arguments("serve", "--sandbox", "--config", str(place.config))
        with errors.open("wb") as out:
            self.process = await asyncio.create_subprocess_exec(*arguments, stderr=out, env=place.environment())
        late = time.monotonic() + 300
        while (found := until.search(errors.read_text(encoding="utf-8"))) is None:
            assert self.process.returncode is None and time.monotonic() < late, errors.read_text(encoding="utf-8")
            await asyncio.sleep(0.1)
        return found[1]

    async def restart(self) -> None:
        await self.start(until=_PORTAL)

    async def stop(self) -> None:
        if self.process is None:
            return
        if self.process.returncode is None:
            self.process.terminate()
        async with asyncio.timeout(30):
            await self.process.wait()


@asynccontextmanager
async def _run_server(server: Server) -> AsyncGenerator[str]:
    try:
        yield await server.start(until=_PROMPT)
        assert server.process is not None
        assert server.process.returncode is None, (server.data / "errors.txt").read_text(encoding="utf-8")
    finally:
        await server.stop()


async def _populate(target: Target, folder: Path) -> None:
    """Add mallory, confidential clients, a worker, and an API."""
    target.worker_key = key = new_key()
    public = folder / "worker.json"
    public.write_text(json.dumps({"keys": [{**key.as_dict(private=False), "kid": "worker"}]}), encoding="utf-8")
    await target.command("users", "add", "mallory", "--password-stdin", feed=PASSWORD + "\n")
    for name, words in {**_CLIENTS, "worker": ("--key", str(public), *_WORKER)}.items():
        made = json.loads(await target.command("clients", "add", name, *words, "--json"))
        target.clients[name] = {key: str(made[key]) for key in ("client_id", "client_secret") if made.get(key)}
    rival = target.clients["rival"]["client_id"]
    await target.command("apis", "add", API, "--client", rival, "--scope", "orders:read")
    page = await target.mallory.sign_in("mallory", PASSWORD)
    assert page.status_code == 200
    for person, provider, account in (
        (target.alice, "slack", "alice"),
        (target.alice, "google", "alice"),
        (target.mallory, "slack", "bob"),
        (target.alice, "github", "alice"),
        (target.mallory, "github", "mallory"),
    ):
        await target.connect(person, provider, account=account)


def proof(key: ECKey, method: str, url: str, *, header: Mapping[str, object] | None = None, **claims: object) -> str:
    """A DPoP proof (RFC 9449 §4.2) with changes; None omits a claim."""
    head = {"typ": "dpop+jwt", "alg": "ES256", "jwk": key.as_dict(private=False)} | dict(header or {})
    body: dict[str, object] = {"jti": secrets.token_urlsafe(12), "htm": method, "htu": url, "iat": int(time.time())}
    return sign_jwt(head, {name: one for name, one in (body | claims).items() if one is not None}, key)


async def talk(port: int, *pieces: bytes, seconds: float = 15.0, pause: float = 0.02) -> bytes:
    """Send raw bytes; return the answer until the server closes the connection or is silent for that long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = bytearray()
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        async with asyncio.timeout(seconds):
            while part := await reader.read(65536):
                said += part
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.transport.abort()
    return bytes(said)
