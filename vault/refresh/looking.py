"""Find out now whether a provider still honors a grant, because somebody said that it may have ended.

A look is a refresh ahead of time, by the same rules as every refresh. A grant without refresh token is asked who it
belongs to; only a provider's own refusal leads on to the rule for refused tokens. The hint alone never ends a grant.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vault import replay
from vault.records import TENANT, ConnectionState
from vault.refresh import leases, rotation
from vault.refresh.concurrency import Vault
from vault.refresh.leases import ConnectionFacts
from vault.refusals import VaultError
from vault.storage.database import Reader, Transaction, text
from vault.upstream import UpstreamError

log = logging.getLogger("token_vault.rotation")

PAUSE: Final = 60  # seconds between two looks at one connection, however often somebody says so
MOST: Final = 500  # connections of one hint
PAGE: Final = 500
_PAGES: Final = 20  # of a provider's connections that are searched for a group of accounts
# A token that is dead, not merely too narrow: RFC 6750 §3.1, and Slack's names.
_DEAD: Final = frozenset({"invalid_token", "invalid_auth", "token_revoked", "token_expired", "account_inactive"})
_OF_ACCOUNT: Final = """
    select id, user_id, account from connections
    where tenant = :tenant and provider = :provider and account = :account and ended_at is null order by id limit :limit
"""
_OF_PROVIDER: Final = """
    select id, user_id, account from connections
    where tenant = :tenant and provider = :provider and ended_at is null
        and (account > :account or (account = :account and id > :id))
    order by account, id limit :limit
"""


@dataclass(frozen=True, slots=True)
class Hinted:
    """A live connection that a hint is about."""

    connection_id: str
    user_id: str


async def find_accounts(reader: Reader, *, provider: str, account: str) -> tuple[Hinted, ...]:
    """Everybody's live connections to one account at a provider."""
    named = {"tenant": TENANT, "provider": provider, "account": account, "limit": MOST}
    rows = await reader.fetch(_OF_ACCOUNT, named)
    return tuple(Hinted(text(row, "id"), text(row, "user_id")) for row in rows)


async def find_group(reader: Reader, *, provider: str, prefix: str) -> tuple[Hinted, ...]:
    """Live connections whose account begins so, such as those of one workspace; searches a bounded number."""
    found: list[Hinted] = []
    account, last = "", ""
    for _ in range(_PAGES):
        named = {"tenant": TENANT, "provider": provider, "account": account, "id": last, "limit": PAGE}
        rows = await reader.fetch(_OF_PROVIDER, named)
        found += [
            Hinted(text(row, "id"), text(row, "user_id")) for row in rows if text(row, "account").startswith(prefix)
        ]
        if len(rows) < PAGE or len(found) >= MOST:
            break
        account, last = text(rows[-1], "account"), text(rows[-1], "id")
    return tuple(found[:MOST])


async def claim(transaction: Transaction, hinted: Sequence[Hinted], *, now: int) -> tuple[Hinted, ...]:
    """Those that nobody looked at within the last minute."""
    return tuple(
        [
            one
            for one in hinted
            if await replay.first_use(transaction, "look", one.connection_id, expires_at=now + PAUSE, now=now)
        ]
    )


def start(vault: Vault, hinted: Sequence[Hinted]) -> None:
    """Look at them in the background, one after the other."""
    if hinted:
        vault.tasks.tidy(_look_at_all(vault, hinted))


async def _look_at_all(vault: Vault, hinted: Sequence[Hinted]) -> None:
    for one in hinted:
        try:
            await look(vault, one.connection_id)
        except VaultError as refusal:
            log.debug("look refused", extra={"connection": one.connection_id, "code": refusal.code})


async def look(vault: Vault, connection_id: str) -> None:
    """Refresh or probe the connection. Raises what a refresh raises; ConnectionRequired: it has ended."""
    facts = await leases.read(vault.database, connection_id)
    if facts is None or facts.is_ended or facts.state is not ConnectionState.ACTIVE:
        return
    newest = facts.access_generation
    if facts.refresh_sealed is not None:
        await rotation.refresh(vault, connection_id, if_generation=newest)
    elif await _is_refused(vault, facts):
        await rotation.refresh(vault, connection_id, if_generation=newest, spoiled=newest)


async def _is_refused(vault: Vault, facts: ConnectionFacts) -> bool:
    """Whether the provider itself says that this access token is dead."""
    upstream = vault.upstreams.get(facts.provider)
    if upstream is None or not upstream.is_configured or facts.access_sealed is None:
        return False
    key = facts.key(vault.keys)
    access_token = key.open(
        facts.access_sealed,
        purpose="access_token",
        provider=facts.provider,
        account=facts.account,
        generation=facts.access_generation,
    )
    try:
        await upstream.identify(access_token, {})
    except UpstreamError as error:
        return error.code in _DEAD
    return False
