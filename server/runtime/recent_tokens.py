"""The tokens of tool calls, used again by calls that repeat a recent one for the same person, agent and account.

The exchange decides by the rows of one read, and by the time. A call of the same tool for the same account makes this
read too, and takes the token that the exchange opened a moment ago if all of it reads the same; its own event is
durable first. Nothing that a revocation must reach is therefore cached. Everything else goes the whole way: refusals,
what a person approves or an operator's rules judge, and tokens that are about to expire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from server.runtime.recent import RecentDecisions
from vault.audit.audit import Activity, format_details
from vault.exchange.exchange import ExchangeRequest, UpstreamToken, Vault, exchange, exchange_event, hash_arguments
from vault.refresh import accounts
from vault.refusals import VaultError
from vault.spans import span

if TYPE_CHECKING:
    from vault.exchange.recent import Basis
    from vault.records import Event
    from vault.storage.database import Row, Value

KEPT: Final = 60  # seconds: a conversation with several calls a minute repeats them
_MOST: Final = 4096  # as many as there are connection keys in memory, which open the same tokens for longer

_Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class _KnownToken:
    """A token, the parameters of the read behind it, and its event but for the arguments of a call."""

    token: UpstreamToken
    parameters: Mapping[str, Value] = field(repr=False)
    event: Event
    details: str


class RecentTokens:
    """The tokens of one process."""

    def __init__(self) -> None:
        self._recent = RecentDecisions[_Key, _KnownToken](kept=KEPT, most=_MOST)

    async def exchange(self, request: ExchangeRequest, *, vault: Vault, now: int) -> UpstreamToken:
        """As `vault.exchange` does, of which it raises the refusals."""
        call = request.call
        if call is None or vault.policy_check is not None or not _is_plain(request):
            return await exchange(request, vault=vault, now=now)
        key = (request.principal, request.provider, request.scopes, request.account, request.purpose, request.tool_sets)
        known = self._recent.find(key, now=now)
        if known is not None:
            with span("exchange", provider=request.provider):
                rows = await accounts.look(vault.database, known.decided.parameters)
                if self._recent.is_current(key, _facts(vault, request.provider, rows)):
                    await _record(known.decided, hash_arguments(call, vault=vault), activity=vault.activity)
                    return known.decided.token
        if not self._recent.is_repeated(key):
            return await exchange(request, vault=vault, now=now)
        token = await exchange(replace(request, is_kept=True), vault=vault, now=now)
        basis, token = token.basis, replace(token, basis=None)
        if basis is not None and not token.approval:
            await self._keep(key, request, token, basis, vault=vault, now=now)
        return token

    async def _keep(
        self, key: _Key, request: ExchangeRequest, token: UpstreamToken, basis: Basis, *, vault: Vault, now: int
    ) -> None:
        """Keep it, if what its decision rests on still reads the same."""
        rows = await accounts.look(vault.database, basis.parameters)
        try:
            if accounts.check_rows(rows, basis.wanted) != basis.accounts:
                return
        except VaultError:  # it ended since
            return
        event = exchange_event(replace(request, call=None), token, vault=vault)
        known = _KnownToken(token, basis.parameters, event, format_details(event.details))
        ends = (basis.until, basis.token.ageing_at)  # from then on each call sees to the next token
        self._recent.keep(key, known, facts=_facts(vault, request.provider, rows), ends=ends, now=now)


def _is_plain(request: ExchangeRequest) -> bool:
    """Whether a key of `RecentTokens` names all of it."""
    return not (request.item or request.connection_id or request.event or request.details or request.wire)


def _facts(vault: Vault, provider: str, rows: Sequence[Row]) -> Sequence[object]:
    return (vault.policies.get(provider), vault.upstreams.get(provider), rows)


async def _record(known: _KnownToken, arguments: str, *, activity: Activity) -> None:
    """Record this use, with the arguments' hash."""
    details = f'{known.details[:-1]},"arguments_hash":"{arguments}"}}'
    await activity.record(known.event, details=details)
