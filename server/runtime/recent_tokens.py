"""Tokens of tool calls, reused by calls that repeat a recent one for the same person, agent, and account.

The exchange decides by the rows of one read and by the time. A call of the same tool for the same account makes this
read, too, and reuses the recent token if all rows are unchanged, with any access token of the grant; its own event is
committed first. A revocation therefore takes effect immediately. The decision of each call is kept, but the opened
token only from the second call. Everything else is processed in full: refusals, calls that a person approves or an
operator's rules decide, and tokens that are about to expire.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from server.runtime.recent import RecentDecisions
from vault.audit.audit import Activity, format_details
from vault.exchange.exchange import (
    ExchangeRequest,
    UpstreamToken,
    Vault,
    exchange,
    exchange_event,
    hash_arguments,
    open_again,
)
from vault.refresh import accounts
from vault.refusals import VaultError
from vault.revoked_tokens import is_revoked
from vault.spans import span

if TYPE_CHECKING:
    from vault.exchange.recent import Basis
    from vault.records import Event, Principal

KEPT: Final = 60  # seconds: a conversation with several calls a minute repeats them
_MOST: Final = 4096  # as many as there are connection keys in memory, which open the same tokens for longer

_Key = tuple[object, ...]


@dataclass(slots=True)
class _OpenedToken:
    """A token, and its event but for the arguments of a call."""

    token: UpstreamToken
    event: Event
    details: str


@dataclass(slots=True)
class _KnownToken:
    """A decision without what it opened, and its basis; the opened token once a call repeated it."""

    token: UpstreamToken
    basis: Basis
    opened: _OpenedToken | None = None


class RecentTokens:
    """The tokens of one process."""

    def __init__(self) -> None:
        self._recent = RecentDecisions[_Key, _KnownToken](kept=KEPT, most=_MOST)

    async def exchange(self, request: ExchangeRequest, *, vault: Vault, now: int) -> UpstreamToken:
        """Do what `vault.exchange` does, and raise the same refusals. Keeps results for which `is_kept` is true."""
        call = request.call
        if call is None or vault.policy_check is not None or not _is_plain(request):
            return await exchange(request, vault=vault, now=now)
        who = request.principal
        key = (*_same_for_all_tokens(who), request.provider, request.scopes, request.account, request.purpose)
        key += (request.tool_sets,)
        known = self._recent.find(key, now=now)
        if known is not None:
            with span("exchange", provider=request.provider):
                rows = await accounts.look(vault.database, known.decided.basis.parameters)
                facts = (*_settings(vault, request.provider), rows)
                holds = self._recent.is_current(key, facts) and not is_revoked(rows[0], who.token_id)
                if holds and (opened := await _open(request, known.decided, vault=vault)):
                    await _record(opened, hash_arguments(call, vault=vault), activity=vault.activity)
                    return opened.token
        settings = _settings(vault, request.provider)
        token = await exchange(request, vault=vault, now=now)
        if (basis := token.basis) is not None and not token.approval:
            kept = _KnownToken(replace(token, value="", entered="", basis=None), basis)
            self._recent.keep(key, kept, facts=(*settings, basis.rows), ends=basis.ends, now=now)
        return token


async def _open(request: ExchangeRequest, known: _KnownToken, *, vault: Vault) -> _OpenedToken | None:
    """The opened token of a decision that holds; None if it doesn't open."""
    if known.opened is None:
        try:
            token = await open_again(known.token, known.basis, vault=vault)
        except VaultError:
            return None  # the exchange gives the reason
        event = exchange_event(replace(request, call=None), token, vault=vault)
        known.opened = _OpenedToken(token, event, format_details(event.details))
    return known.opened


def _same_for_all_tokens(who: Principal) -> _Key:
    """All that an exchange depends on, but the token: its ID is looked up each time, authentication checks its end."""
    return (
        who.user_id,
        who.client_id,
        who.grant_id,
        who.scopes,
        who.audience,
        who.tenant,
        who.actors,
        who.auth_time,
        who.is_strong,
    )


def _is_plain(request: ExchangeRequest) -> bool:
    """Whether a key of `RecentTokens` identifies it completely."""
    return not (request.item or request.connection_id or request.event or request.details or request.wire)


def _settings(vault: Vault, provider: str) -> tuple[object, object]:
    """The state, other than the rows, that an exchange with the provider depends on."""
    return vault.policies.get(provider), vault.upstreams.get(provider)


async def _record(known: _OpenedToken, arguments: str, *, activity: Activity) -> None:
    """Record this use, with the arguments' hash."""
    details = f'{known.details[:-1]},"arguments_hash":"{arguments}"}}'
    await activity.record(known.event, details=details)
