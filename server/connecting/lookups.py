"""Names for the IDs in a call, and the values it would change, read at the provider for the person's own page.

The page reads with the connection's own authority, through the vault's exchange and the provider's request rules, with
the fewest scopes that allow reading; it skips an account that lacks them. A page waits briefly and is shown without
missing answers; a slow answer is available when the page is opened again. None of this reaches the agent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from providers.api.api import ToolRefused, UpstreamAPI
from providers.api.rules import authority, expand
from providers.tools.presentation import Lookup
from providers.tools.spec import ToolSpec
from server.deployment import Deployment
from server.runtime.kept_answers import LIMIT, Read
from vault import grants, shared_connections
from vault.approvals.approvals import Approval
from vault.exchange.exchange import ExchangeRequest, UpstreamToken, exchange
from vault.records import Connection, ConnectionState, Event, Narrowing, Principal
from vault.refusals import VaultError

PATIENCE: Final = 0.7  # seconds that a page waits
logger = logging.getLogger("token_vault.lookups")


@dataclass(frozen=True, slots=True)
class LookupResult:
    """The names and current values found, by argument. `is_late`: more may be known soon.

    `is_whole`: every lookup that the arguments allow found its value.
    """

    names: Mapping[str, str] = field(default_factory=dict[str, str])
    before: Mapping[str, str] = field(default_factory=dict[str, str])
    is_late: bool = False
    is_whole: bool = True


async def find(deployment: Deployment, approval: Approval, spec: ToolSpec) -> LookupResult:
    """What can be found out about the IDs in this call within `PATIENCE` seconds."""
    reads: dict[Hashable, Read] = {
        key: partial(_read, deployment, approval, one, values) for key, one, values in _possible_reads(approval, spec)
    }
    is_whole = await deployment.lookups.ask(reads, patience=PATIENCE)
    return replace(known_values(deployment, approval, spec), is_late=not is_whole)


def known_values(deployment: Deployment, approval: Approval, spec: ToolSpec) -> LookupResult:
    """What is already known; makes no requests."""
    names: dict[str, str] = {}
    before: dict[str, str] = {}
    is_whole = True
    for key, one, _ in _possible_reads(approval, spec):
        if (answer := deployment.lookups.get(key)) is None:
            is_whole = False
            continue
        found = one.read_names(answer)
        is_whole = is_whole and len(found) == len(one.names)
        names |= found
        before |= one.read_before(answer)
    return LookupResult(names, before, is_whole=is_whole)


def _possible_reads(approval: Approval, spec: ToolSpec) -> Iterator[tuple[Hashable, Lookup, Mapping[str, str]]]:
    """The lookups that these arguments allow, each with its key and values."""
    for one in spec.presentation.lookups:
        if (values := one.values_of(approval.arguments)) is not None:
            yield (approval.connection_id, one.api, one.path, one.graphql, tuple(values.items())), one, values


async def _read(
    deployment: Deployment, approval: Approval, lookup: Lookup, values: Mapping[str, str]
) -> Mapping[str, object] | None:
    """The provider's answer; None if there is none for any reason, since a page can do without names."""
    try:
        return await _ask(deployment, approval, lookup, values)
    except (VaultError, ToolRefused) as error:
        logger.info("no names for an approval", extra={"tool": approval.tool, "reason": type(error).__name__})
        return None


async def _ask(
    deployment: Deployment, approval: Approval, lookup: Lookup, values: Mapping[str, str]
) -> Mapping[str, object] | None:
    """The provider's answer; None if the account can't be used to read it."""
    connection = await shared_connections.usable(
        deployment.database, approval.connection_id, user_id=approval.user_id, now=deployment.now()
    )
    provider = None if connection is None else deployment.catalog.get(connection.provider)
    held = await grants.list_grants(deployment.database, approval.user_id)
    grant = next((one for one in held if one.client_id == approval.client_id and one.is_live), None)
    if connection is None or provider is None or grant is None or connection.state is not ConnectionState.ACTIVE:
        return None
    if not lookup.scopes <= expand(provider, connection.scopes):
        return None
    if deployment.budgets.spend(approval.user_id, connection.provider, now=time.monotonic()):
        return None
    request = ExchangeRequest(
        Principal(grant.user_id, grant.client_id, grant.id, scopes=grant.scopes, audience=grant.resource),
        connection.provider,
        lookup.scopes,
        connection_id=connection.id,
        purpose="names for an approval",
        event=lambda token: _event(connection, approval, token),
        is_for_person=True,
    )
    token = await exchange(request, vault=deployment.vault, now=deployment.now())
    is_narrow = token.narrowing is Narrowing.UPSTREAM
    api = UpstreamAPI(
        provider,
        deployment.http,
        token=token.value,
        entered=token.entered,
        scopes=token.scopes,
        account=token.account,
        granted=authority(provider, scopes=token.scopes, granted=token.granted, is_narrow=is_narrow),
        now=deployment.now(),
        deadline=asyncio.get_running_loop().time() + LIMIT,
    )
    return await api.send(
        lookup.method,
        lookup.api,
        lookup.template,
        segments=lookup.segments(values),
        params=lookup.parameters(values),
        body=lookup.body(values) if lookup.graphql else None,
        is_write=False,
    )


def _event(connection: Connection, approval: Approval, token: UpstreamToken) -> Event:
    """The use of a read by the person's page, not by the agent."""
    return Event(
        "approval.names_read",
        user_id=connection.user_id,
        connection_id=connection.id,
        details={
            "provider": connection.provider,
            "account": connection.label,
            "scopes": sorted(token.scopes),
            "narrowing": token.narrowing.value,
            "tool": approval.tool,
        },
    )
