"""Carries out a program's calls through a remote vault: it gives a handle for each call, and its proxy makes the call.

No credential reaches this machine. Sign-in uses the bridge (`server.bridge.access`), separately from the sign-in of
`token-vault stdio --url` under the same name, which can't exchange tokens.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import httpx2

from providers.outbound.json_values import is_array, is_object
from server.bridge.access import Access
from server.bridge.address import RemoteVault
from server.bridge.authority import HEADERS, unreachable
from server.bridge.refusals import BridgeRefused
from server.errors import status_of
from server.http.answers import JSON, piece, send_whole, start
from server.http.strict_json import json_object
from server.programs.front import ProgramCall
from server.programs.local_calls import KEPT_BACK, operation_of
from server.programs.wire import Exchange
from server.proxy.endpoint import CALLED_ADDRESS
from server.proxy.program_hosts import ApiAddress, HostMap
from server.proxy.remote_programs import CALLS, HOSTS
from vault.refusals import VaultError

_LOOK: Final = 2.0  # seconds between two checks for the person's permission
_LAST_WORDS: Final = 5.0  # seconds at the end to send the vault what it should record
_ANSWER: Final = 120.0  # seconds between two pieces of an answer
_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"trailer", b"date", b"server"}
)


@dataclass(frozen=True, slots=True)
class _Way:
    """How to make one call: a handle, and the path at the vault's proxy."""

    handle: str = field(repr=False)
    path: str
    below: int  # length of the path in the API's address
    provider: str
    address: str
    keeps_encoding: bool


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a call can't be made. `link`: where the person can allow it."""

    status: int
    code: str
    text: str
    provider: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    link: str = field(repr=False)


class RemoteCalls:
    """Answers calls to the hosts of a remote vault's accounts. `say` prints a message and a link for the person."""

    def __init__(
        self,
        vault: RemoteVault,
        access: Access,
        *,
        accounts: Sequence[str],
        say: Callable[[str, str], None],
        wait: float,
    ) -> None:
        self._vault = vault
        self._access = access
        self._accounts = list(accounts)
        self._say = say
        self._wait = wait
        self._told: set[str] = set()
        self._refused = deque[tuple[str, int]]()  # hosts to report to the vault
        self._telling: asyncio.Task[None] | None = None
        self._http = httpx2.AsyncClient(
            timeout=httpx2.Timeout(30.0, read=_ANSWER), trust_env=not vault.is_loopback, follow_redirects=False
        )
        self.counts = Counter[tuple[str, str]]()

    async def close(self) -> None:
        """Close the connections to the vault. Handles expire by themselves within minutes."""
        try:
            if self._telling is not None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._telling, _LAST_WORDS)
        finally:
            await self._http.aclose()

    def tell_refused(self, host: str, port: int) -> None:
        """Have the vault record that the program was refused a host that belongs to no account."""
        self._refused.append((host, port))
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_refused())

    async def _tell_refused(self) -> None:
        """Report one host after the other, so that a program that tries many hosts doesn't keep the vault busy."""
        while self._refused:
            host, port = self._refused.popleft()
            with suppress(VaultError, httpx2.HTTPError, httpx2.InvalidURL):  # the call is refused anyway
                await self._ask(CALLS, {"method": "CONNECT", "host": host[:253], "port": port, "path": "/"})

    async def hosts(self) -> HostMap:
        """The hosts of the person's accounts. Raises BridgeRefused, also for an unknown account's name."""
        answer = await self._ask(HOSTS, {})
        content = _content(answer)
        found = content.get("hosts")
        if answer.status_code != HTTPStatus.OK or not is_array(found):
            raise BridgeRefused(
                str(content.get("text") or f"{self._vault.origin} doesn't support programs: update that vault")
            )
        if problem := content.get("problem"):
            raise BridgeRefused(str(problem))
        return HostMap([one for entry in found if (one := _address(entry)) is not None])

    async def answer(self, call: ProgramCall, exchange: Exchange) -> None:
        """Carry out the call, or pass on the vault's refusal."""
        try:
            way = await self._way(call)
            if isinstance(way, _Refusal):
                self.counts[way.provider, "refused"] += 1
                await _refuse(exchange, way.status, way.code, way.headers, way.body)
                return
            if way.keeps_encoding:
                exchange.unpacker = None
            await self._pass(call, way, exchange)
        except (VaultError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            told = error if isinstance(error, VaultError) else unreachable(self._vault, error)
            if exchange.is_started:
                return  # cut off, so that the program doesn't take it as complete
            self.counts["", "refused"] += 1
            await _refuse(
                exchange, status_of("temporarily_unavailable"), "vault_unreachable", {}, told.description.encode()
            )

    async def _way(self, call: ProgramCall) -> _Way | _Refusal:
        """How to make the call; waits a while for the person to allow it."""
        path, _, query = call.target.decode("latin-1").partition("?")
        asked = {"method": call.method, "host": call.host, "port": call.port, "path": path, "query": query}
        asked |= {"operation": operation} if (operation := operation_of(call.headers)) else {}
        loop = asyncio.get_running_loop()
        end = loop.time() + self._wait
        while True:
            answer = await self._ask(CALLS, asked)
            content = _content(answer)
            if answer.status_code == HTTPStatus.OK:
                return _way_of(content)
            refused = _refusal_of(answer.status_code, content)
            if not refused.link or loop.time() >= end:
                return refused
            if refused.link not in self._told:
                self._told.add(refused.link)
                self._say(refused.text, refused.link)
            await asyncio.sleep(_LOOK)

    async def _ask(self, path: str, content: Mapping[str, object]) -> httpx2.Response:
        """Ask the vault, with a token that it accepts. Raises BridgeRefused and httpx2's errors."""
        body, url = {**content, "accounts": self._accounts}, f"{self._vault.origin}{path}"
        token = await self._access.token()
        answer = await self._http.post(url, json=body, headers={**HEADERS, "authorization": f"Bearer {token}"})
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            token = await self._access.after(token)
            answer = await self._http.post(url, json=body, headers={**HEADERS, "authorization": f"Bearer {token}"})
        return answer

    async def _pass(self, call: ProgramCall, way: _Way, exchange: Exchange) -> None:
        target = way.path.encode("latin-1") + call.target[way.below :]
        request = httpx2.Request(
            call.method,
            f"{self._vault.origin}/proxy/",
            headers=_headers(call, way, self._vault, exchange),
            content=await _body(call, exchange),
            extensions={"target": target, "timeout": httpx2.Timeout(30.0, read=_ANSWER).as_dict()},
        )
        outcome = "unanswered"
        try:
            answer = await self._http.send(request, stream=True)
            try:
                outcome = "refused" if "token-vault-refusal" in answer.headers else "passed"
                headers = [(name.lower(), value) for name, value in answer.headers.raw if name.lower() not in _HOP]
                await start(exchange.send, answer.status_code, headers)
                async for part in answer.aiter_raw():
                    await piece(exchange.send, part)
                await piece(exchange.send, b"", is_last=True)
            finally:
                await answer.aclose()
        finally:
            self.counts[way.provider, outcome] += 1


def _headers(call: ProgramCall, way: _Way, vault: RemoteVault, exchange: Exchange) -> Sequence[tuple[bytes, bytes]]:
    packed = {b"content-encoding", b"content-length", b"transfer-encoding"} if exchange.is_packed else set[bytes]()
    kept = [(name, value) for name, value in call.headers if name not in KEPT_BACK | packed]
    ours = [
        (b"host", vault.origin.partition("://")[2].encode()),
        (b"authorization", f"Bearer {way.handle}".encode()),
        (CALLED_ADDRESS.encode(), way.address.encode()),
    ]
    return [*ours, *kept]


async def _body(call: ProgramCall, exchange: Exchange) -> AsyncGenerator[bytes] | bytes:
    """The body, piece by piece as it arrives; an empty one is read here."""
    fields = dict(call.headers)
    if b"transfer-encoding" not in fields and fields.get(b"content-length", b"0") == b"0":
        return b"".join([piece async for piece in _pieces(exchange)])
    return _pieces(exchange)


async def _pieces(exchange: Exchange) -> AsyncGenerator[bytes]:
    while True:
        message = await exchange.receive()
        if message["type"] != "http.request":
            raise httpx2.WriteError("the program left")
        if message["body"]:
            yield message["body"]
        if not message["more_body"]:
            return


async def _refuse(exchange: Exchange, status: int, code: str, headers: Mapping[str, str], body: bytes) -> None:
    fields = [
        JSON,
        (b"token-vault-refusal", code.encode("latin-1", "replace")),
        *(
            (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
            for name, value in headers.items()
        ),
    ]
    await send_whole(exchange.send, status, fields, body)


def _content(answer: httpx2.Response) -> Mapping[str, object]:
    try:
        return json_object(answer.content)
    except (ValueError, RecursionError):
        return {}


def _address(entry: object) -> ApiAddress | None:
    """An address from the vault's answer; None if this version doesn't understand it."""
    if not is_object(entry):
        return None
    provider, api, scheme, host, path = (
        str(entry.get(name, "")) for name in ("provider", "api", "scheme", "host", "path")
    )
    port = entry.get("port")
    if scheme not in {"https", "http"} or not host or not isinstance(port, int):
        return None
    return ApiAddress(provider, api, scheme, host, port, path)


def _way_of(content: Mapping[str, object]) -> _Way:
    text = {
        name: str(content.get(name) or "") for name in ("handle", "connection_id", "provider", "api", "address", "path")
    }
    if not text["handle"] or not text["connection_id"] or not text["api"]:
        raise BridgeRefused("this version doesn't understand the vault's answer: update Token Vault")
    path = f"/proxy/{text['connection_id']}/{text['api']}"
    keeps = content.get("keeps_encoding") is True
    return _Way(text["handle"], path, len(text["path"]), text["provider"], text["address"], keeps)


def _refusal_of(status: int, content: Mapping[str, object]) -> _Refusal:
    headers = content.get("headers")
    known = {name: str(value) for name, value in headers.items()} if is_object(headers) else {}
    text = str(content.get("text") or f"The vault answered {status}.")
    body = json.dumps(content.get("body") or {"message": text}).encode()
    return _Refusal(
        status if 400 <= status < 600 else status_of("answer_unreadable"),
        str(content.get("code") or "vault_unreachable"),
        text,
        str(content.get("provider") or ""),
        known,
        body,
        str(content.get("link") or ""),
    )
