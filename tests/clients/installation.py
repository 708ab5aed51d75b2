"""Play the habits against a real authorization server over HTTP: discovery, registration, code, refresh, calls.

Nothing here depends on the vault: the server is found by its protected resource metadata (RFC 9728). The caller
supplies the sign-in and the passing of time.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

import httpx2

from tests.clients.habits import Habit

SignIn = Callable[[str], Awaitable[dict[str, str]]]  # the authorization request's URL; the query of the callback
Json = dict[str, object]
MARGIN = 60  # seconds before the end at which clients refresh


@dataclass(frozen=True, slots=True)
class Server:
    """The endpoints of one MCP server and of its authorization server."""

    mcp: str
    register: str
    authorize: str
    token: str

    @classmethod
    async def discover(cls, http: httpx2.AsyncClient, mcp: str) -> Server:
        parts = urlsplit(mcp)
        origin = f"{parts.scheme}://{parts.netloc}"
        resource = (await http.get(f"{origin}/.well-known/oauth-protected-resource{parts.path}")).json()
        issuer = urlsplit(str(resource["authorization_servers"][0]))
        path = issuer.path.rstrip("/")
        known = f"{issuer.scheme}://{issuer.netloc}/.well-known/oauth-authorization-server{path}"
        metadata = (await http.get(known)).json()
        return cls(
            mcp, metadata["registration_endpoint"], metadata["authorization_endpoint"], metadata["token_endpoint"]
        )


@dataclass
class TokenStore:
    """The tokens that a client keeps on disk, or a process in memory."""

    access: str = ""
    refresh: str | None = None
    ends_at: int = 0


@dataclass
class Figures:
    """The counts of one client."""

    calls: int = 0
    refreshes: int = 0
    repeats: int = 0  # refreshes that returned a token that a process already had
    crashes: int = 0
    first: int = 0
    by_itself: int = 0  # sign-ins that the client asks for regardless of the server
    unwanted: int = 0
    failures: list[str] = field(default_factory=list[str])


class Installation:
    """One client on one machine: its store, its processes, and its counts."""

    def __init__(
        self, habit: Habit, server: Server, http: httpx2.AsyncClient, sign_in: SignIn, now: Callable[[], int]
    ) -> None:
        self.habit, self.server, self.http = habit, server, http
        self._sign_in, self._now = sign_in, now
        self.client_id = ""
        self._port = 40_000
        self.store = TokenStore()
        self.memory: list[TokenStore] = [TokenStore() for _ in habit.processes]
        self.figures = Figures()
        self._seen: set[str] = set()
        self._signing_in = asyncio.Lock()
        self._crashed = False

    def start(self) -> None:
        """Start every process, which reads the store."""
        self._crashed = False
        if self.habit.registers_each_start:
            self.client_id, self.store = "", TokenStore()
        self.memory = [TokenStore(**vars(self.store)) for _ in self.habit.processes]

    async def work(self, process: int, *, crash: bool = False, forced: bool = False) -> None:
        """Make one call from one process, renewing its token first if needed. `forced`: refresh before it is due."""
        if self._crashed:
            return
        kept = self.memory[process]
        view = self._now() + self.habit.clock_off
        if kept.access and (forced or (self.habit.is_eager and view >= kept.ends_at - MARGIN)):
            await self._renew(process, crash=crash)
        if self._crashed:
            return
        status = await self._call(process)
        if status == 401:
            await self._renew(process, crash=crash)
            status = 200 if self._crashed else await self._call(process)
        if status != 200:
            self.figures.failures.append(f"{self.habit.name}: status {status} with a new token")
        self.figures.calls += 1

    async def _call(self, process: int) -> int:
        access = self.memory[process].access
        if not access:
            return 401
        message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        headers = {"authorization": f"Bearer {access}", "accept": "application/json, text/event-stream"}
        answer = await self.http.post(self.server.mcp, json=message, headers=headers)
        return 401 if answer.status_code == 401 else 200  # any other answer means that the token was accepted

    async def _renew(self, process: int, *, crash: bool) -> None:
        kept = self.memory[process]
        if kept.refresh is None or self.habit.registers_each_expiry:
            await self._again(process, kept)
            return
        form = {"grant_type": "refresh_token", "client_id": self.client_id, "refresh_token": kept.refresh}
        answer = await self.http.post(self.server.token, data=form | self._resource())
        self.figures.refreshes += 1
        if answer.status_code != 200:
            self.figures.failures.append(f"{self.habit.name}: refresh refused: {answer.text[:120]}")
            await self._again(process, kept)
            return
        renewed = self._tokens_to_keep(answer.json(), before=kept)
        self.figures.repeats += renewed.refresh in self._seen
        self._seen.add(renewed.refresh or "")
        if crash:
            self._crashed = True
            self.figures.crashes += 1
            return
        self.memory[process] = renewed
        self.store = TokenStore(**vars(renewed))

    async def _again(self, process: int, kept: TokenStore) -> None:
        """Sign in, unless another process did so meanwhile; then read its tokens from the store."""
        async with self._signing_in:
            if self.store.access and self.store.access != kept.access:
                self.memory[process] = TokenStore(**vars(self.store))
                return
            if not self.figures.first:
                self.figures.first = 1
            elif self.habit.signs_in_by_itself and (kept.refresh is None or self.habit.registers_each_expiry):
                self.figures.by_itself += 1
            else:
                self.figures.unwanted += 1
            self._port += 1
            if not self.client_id or self.habit.registers_each_expiry:
                self.client_id = await self._register()
            self.memory[process] = await self._authorize()
            self.store = TokenStore(**vars(self.memory[process]))

    def _redirect(self) -> str:
        return self.habit.redirect.format(port=self._port)

    def _resource(self) -> dict[str, str]:
        return {} if self.habit.resource is None else {"resource": self.server.mcp + self.habit.resource}

    async def _register(self) -> str:
        metadata = {
            "client_name": self.habit.name,
            "redirect_uris": [self._redirect()],
            "grant_types": list(self.habit.grants),
            "token_endpoint_auth_method": "none",
        }
        answer = await self.http.post(self.server.register, json=metadata)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["client_id"])

    async def _authorize(self) -> TokenStore:
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self._redirect(),
            "state": secrets.token_urlsafe(8),
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        } | self._resource()
        if self.habit.scope is not None:
            asked["scope"] = self.habit.scope
        separator = "&" if "?" in self.server.authorize else "?"
        callback = await self._sign_in(f"{self.server.authorize}{separator}{urlencode(asked)}")
        assert callback.get("state") == asked["state"], f"{self.habit.name}: {callback}"
        form = {
            "grant_type": "authorization_code",
            "client_id": self.client_id,
            "code": callback["code"],
            "code_verifier": verifier,
            "redirect_uri": self._redirect(),
        } | self._resource()
        answer = await self.http.post(self.server.token, data=form)
        assert answer.status_code == 200, answer.text
        return self._tokens_to_keep(answer.json(), before=None)

    def _tokens_to_keep(self, content: Json, *, before: TokenStore | None) -> TokenStore:
        refresh = content.get("refresh_token", None if before is None else before.refresh)
        view = self._now() + self.habit.clock_off
        return TokenStore(
            access=str(content["access_token"]),
            refresh=None if refresh is None else str(refresh),
            ends_at=view + int(str(content.get("expires_in", 3600))),
        )


def table(installations: list[Installation]) -> str:
    """The counts, one line per client."""
    lines = ["client         calls  refreshes  repeats  crashes  first  by itself  UNWANTED"]
    for one in installations:
        f = one.figures
        lines.append(
            f"{one.habit.name:13}{f.calls:7}{f.refreshes:11}{f.repeats:9}{f.crashes:9}"
            f"{f.first:7}{f.by_itself:11}{f.unwanted:10}"
        )
    return "\n".join(lines)
