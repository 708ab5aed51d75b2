"""The identity providers of the settings that vouch for people: their refresh tokens as connections of their own.

`server.sign_in.openid` signs people in and hands over what came with it; `vault.refresh.company` connects them
elsewhere with it.
"""

from __future__ import annotations

import logging
from typing import Final

from providers.oauth.assertions import IDENTITY_SCOPES, IdentityProvider, IdentityUpstream, id_token_lifetime
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from server.deployment import Deployment
from server.settings import Settings
from server.sign_in.proofs import CHANGED, Proof, hold_person
from vault.records import User
from vault.refresh import company, consents
from vault.refresh.consents import Consent
from vault.refusals import StorageUnavailable, TemporarilyUnavailable, TransitionRefused
from vault.storage.database import Transaction
from vault.upstream import Account, TokenAnswer, UpstreamPolicy

OFFLINE: Final = "offline_access"
_PREFIX: Final = "sign-in-"
logger = logging.getLogger("token_vault.openid")


def identity_name(name: str) -> str:
    """What connections call the identity provider of this sign-in."""
    return f"{_PREFIX}{name}"


def is_identity_name(provider: str) -> bool:
    """Whether connections call an identity provider so, also one that the settings no longer have."""
    return provider.startswith(_PREFIX)


def identity_upstreams(settings: Settings, outbound: Outbound) -> dict[str, IdentityUpstream]:
    """By that name. Raises SettingsRefused for a secret that can't be read."""
    reach = AddressPolicy(allow_loopback=settings.sandbox.loopback_openid)
    found: dict[str, IdentityUpstream] = {}
    for name, one in settings.sign_in.openid.items():
        if one.id_jag:
            identity = IdentityProvider(
                identity_name(name),
                one.title,
                one.issuer,
                client_id=one.client_id,
                client_secret=one.secret(name),
                reach=reach,
            )
            found[identity.name] = IdentityUpstream(identity, outbound)
    return found


def identity_policy(name: str) -> UpstreamPolicy:
    """The strictest reading of its refresh tokens; no scope of it is for agents."""
    return UpstreamPolicy(
        name, operator_scopes=frozenset(), always_granted=IDENTITY_SCOPES, is_identity=True, access_lifetime=300
    )


async def keep(
    deployment: Deployment,
    name: str,
    user: User,
    *,
    proof: Proof,
    subject: str,
    id_token: str,
    refresh_token: str | None,
) -> None:
    """Keep what a sign-in brought as the person's connection to their identity provider.

    Without a refresh token it vouches until the ID token ends. If it can't be stored now, it is stored later or ended
    at the identity provider. `proof`: if it no longer holds, it is ended there.
    """

    async def guard(transaction: Transaction) -> None:
        if not await hold_person(transaction, user, proof):
            raise TransitionRefused(CHANGED)

    vault = deployment.vault
    answer = TokenAnswer(
        id_token,
        refresh_token=refresh_token,
        scopes=IDENTITY_SCOPES,
        expires_in=id_token_lifetime(id_token),
        account=Account(subject, user.name),
    )
    consent = Consent(user.id, identity_name(name), IDENTITY_SCOPES)
    at_ms = consents.milliseconds(vault)
    try:
        await consents.store(vault, consent, answer, at_ms=at_ms, guard=guard)
    except (StorageUnavailable, TemporarilyUnavailable, TransitionRefused):
        logger.warning("identity not stored yet", extra={"provider": name})
        finishing = consents.finish(vault, consent, answer, at_ms=at_ms, is_kept=False, guard=guard)
        vault.tasks.finish(f"identity:{user.id}", finishing)
        return
    vault.tasks.finish(f"company:{user.id}", company.connect_all(vault, user.id))
