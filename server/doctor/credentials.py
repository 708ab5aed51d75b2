"""Checks of services with entered credentials: whether those still work, with the probe in the provider file.

Reading an account's identity uses nothing up. A connection must be reconnected if its service refuses the credential.
"""

from __future__ import annotations

from typing import Final

from providers.definitions.model import Provider
from server.deployment import Deployment
from server.doctor.findings import Finding, note, ok, problem
from vault import users
from vault.refresh import grant_checks
from vault.refresh.grant_checks import LiveAccount
from vault.refusals import ConnectionRequired, VaultError

_MOST: Final = 50  # number of connections to examine


async def check_credentials(deployment: Deployment, provider: Provider) -> list[Finding]:
    """Check one service: whether people can connect it, and whether the entered credentials work."""
    check, title = f"{provider.name}.credential", provider.title
    if not deployment.vault.upstreams[provider.name].is_configured:
        fix = f"run token-vault providers setup {provider.name}, or remove providers.{provider.name}.enabled"
        return [note(check, f"{title} is turned off, so no accounts can be connected", fix=fix)]
    if provider.identity.source != "endpoint":
        return [note(check, f"{title} has no call that tests a credential", fix="watch the activity")]
    accounts = await grant_checks.live_accounts(deployment.database, provider.name, limit=_MOST)
    dead = [one for one in accounts if await _is_dead(deployment, one)]
    if not dead:
        return [ok(check, f"{title} accepts {len(accounts)} of {len(accounts)} credentials that people entered")]
    return [await _describe(deployment, provider, one) for one in dead]


async def _is_dead(deployment: Deployment, account: LiveAccount) -> bool:
    try:
        await grant_checks.look(deployment.vault, account.connection_id)
    except ConnectionRequired:
        return True
    except VaultError:
        return False  # no one answered
    return False


async def _describe(deployment: Deployment, provider: Provider, account: LiveAccount) -> Finding:
    owner = await users.get_user(deployment.database, account.user_id)
    who = f"{account.label} of {account.user_id if owner is None else owner.name}"
    return problem(
        f"{provider.name}.credential",
        f"{provider.title} no longer accepts the credential of {who}",
        fix="have its owner replace it on the Accounts page",
    )
