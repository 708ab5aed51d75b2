"""Carries out a program's calls in this process: calls the vault's own proxy as if over HTTP, with a handle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.types import Message, Scope

from providers.definitions.method_overrides import TARGET
from providers.definitions.model import Provider
from server.deployment import Deployment
from server.programs.front import ProgramCall
from server.programs.wire import Exchange
from server.proxy import Proxy, refusals
from server.proxy.endpoint import CALLED_ADDRESS
from server.proxy.program_access import AccountChoice, ProgramAccess, WantedCall, stores_encoding
from server.proxy.program_hosts import HostMap
from server.proxy.wire import ProxyRefused
from vault.refusals import VaultError
from vault.spans import REQUEST_ID, new_request_id

KEPT_BACK: Final = frozenset(
    {b"authorization", b"cookie", b"origin", b"host", b"expect", b"te", b"upgrade", CALLED_ADDRESS.encode()}
)


class LocalCalls:
    """Answers calls to the hosts of connected accounts. `counts`: by provider and outcome, as in `ProgramRecord`.

    `tool` and `request_id`: the tool call that they belong to, if any; it is recorded with them.
    `may_have_changed`: whether a call that may change something at a provider was sent.
    """

    def __init__(
        self, deployment: Deployment, hosts: HostMap, access: ProgramAccess, *, tool: str = "", request_id: str = ""
    ) -> None:
        self._deployment = deployment
        self._hosts = hosts
        self._access = access
        self._proxy = Proxy(deployment, self._address_here, tool=tool)
        self._request_id = request_id
        self._called: dict[tuple[str, str], str] = {}
        self.counts = Counter[tuple[str, str]]()
        self.may_have_changed = False

    async def answer(self, call: ProgramCall, exchange: Exchange) -> None:
        """Carry out the call, or refuse it in the form that the provider's SDK reads."""
        path, _, query = call.target.partition(b"?")
        wanted = WantedCall(call.method, path.decode("latin-1"), query, operation_of(call.headers))
        found = self._hosts.find(call.host, call.port, wanted.path)
        named = found or self._hosts.at(call.host, call.port)
        reset = REQUEST_ID.set(self._request_id or new_request_id())
        try:
            chosen = await self._access.choose(found, wanted)
            await self._access.check_place(chosen)
            handle = await self._access.handle(chosen)
        except (ProxyRefused, VaultError) as error:
            self.counts[named[0].provider, "refused"] += 1
            told = error if isinstance(error, ProxyRefused) else await self._refusal_of(error)
            await refusals.send(exchange.send, told, self._deployment.catalog.get(named[0].provider))
        else:
            self._called[chosen.address.provider, chosen.address.api] = chosen.address.url
            if stores_encoding(self._deployment, chosen):
                exchange.unpacker = None
            outcome = "unanswered"

            async def send(message: Message) -> None:
                nonlocal outcome
                if message["type"] == "http.response.start":
                    outcome = "refused" if _is_refusal(message) else "passed"
                await exchange.send(message)

            try:
                await self._proxy(_scope(call, chosen, handle, exchange), exchange.receive, send)
            finally:
                self._note(chosen, wanted, outcome)
        finally:
            REQUEST_ID.reset(reset)

    def _note(self, chosen: AccountChoice, call: WantedCall, outcome: str) -> None:
        self.counts[chosen.address.provider, outcome] += 1
        self.may_have_changed |= outcome != "refused" and self._access.may_change(chosen, call)

    async def _refusal_of(self, error: VaultError) -> ProxyRefused:
        return await refusals.of_vault(self._deployment, error, handle=None)

    def _address_here(self, provider: Provider, api: str) -> str:
        known = self._hosts.address(provider.name, api) or self._called.get((provider.name, api))
        return known or provider.apis[api].rstrip("/")


def operation_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The operation that the header `X-Amz-Target` of a program's call names."""
    return next((value.decode("latin-1") for name, value in headers if name == TARGET.encode()), "")


def _is_refusal(message: Message) -> bool:
    """Whether the vault itself refused the call: no provider's answer has this header."""
    return any(name == b"token-vault-refusal" for name, _ in message["headers"])


def _scope(call: ProgramCall, chosen: AccountChoice, handle: str, exchange: Exchange) -> Scope:
    """The call as the vault's proxy takes it."""
    path, _, query = call.target.partition(b"?")
    below = path[len(urlsplit(chosen.address.url).path) :]
    raw_path = f"/proxy/{chosen.connection_id}/{chosen.address.api}".encode() + below
    packed = (b"content-encoding", b"content-length", b"transfer-encoding") if exchange.is_packed else ()
    headers = [(name, value) for name, value in call.headers if name not in KEPT_BACK and name not in packed]
    address = CALLED_ADDRESS.encode(), chosen.address.url.encode()
    if exchange.is_packed:
        headers.append((b"transfer-encoding", b"chunked"))
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": call.method,
        "scheme": "https",
        "path": raw_path.decode("latin-1"),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": [*headers, (b"authorization", b"Bearer " + handle.encode()), address],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
    }
