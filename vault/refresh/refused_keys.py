"""Handle a key that an API answered with 401: the service's own check decides whether the connection ends, not an
agent's call. Agents choose the paths of calls, and services also answer 401 to a working key that lacks one permission.
"""

from __future__ import annotations

from vault.audit.audit import append
from vault.refresh import leases
from vault.refresh.concurrency import Vault
from vault.refresh.leases import ConnectionFacts
from vault.refresh.refresh_request import event_of
from vault.refusals import CallUnauthorized
from vault.upstream import ProbeOutcome, UpstreamOAuth


async def confirm(vault: Vault, facts: ConnectionFacts, upstream: UpstreamOAuth) -> None:
    """Return if the service reports the key as dead; makes one probe, of at most two requests of 10 s.

    Raises CallUnauthorized otherwise. If the vault can't check, it notifies the person once that the key may not work.
    """
    token = facts.open_access_token(vault.keys)
    if token is None:
        return
    answer = await upstream.probe(refresh_token=None, access_token=token, is_fresh=False, is_revoked=False)
    if answer.outcome is ProbeOutcome.DEAD:
        return
    if answer.outcome is ProbeOutcome.UNPROVEN:
        async with vault.database.transaction() as transaction:
            if await leases.doubt(transaction, facts):
                await append(transaction, event_of(facts, "connection.doubted"), now=vault.database.now())
    raise CallUnauthorized(
        f"{facts.provider} refused this call (401). The account stays connected: its credential may not allow the call."
    )
