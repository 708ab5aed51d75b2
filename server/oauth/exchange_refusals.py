"""What a refused exchange tells its client: a registered code, what is missing, and the link that mends it.

The codes are those of RFC 6749 §5.2, RFC 8693 §2.2.2 and RFC 8707 §2; the further members of the answer are ours. A
client learns nothing of accounts that it may not use. Links are made by `server.connect`.
"""

from __future__ import annotations

from collections.abc import Mapping

from server.connect import connect_link
from server.deployment import Deployment
from server.oauth.rules import OAuthError
from server.oauth.wire import as_oauth_error
from vault import delegations
from vault.records import Principal, format_scope
from vault.refusals import (
    AccountRequired,
    ApprovalRequired,
    ConnectionRequired,
    DelegationRequired,
    GrantEnded,
    ScopeRefused,
    VaultError,
)


async def as_answer(
    deployment: Deployment,
    refusal: VaultError,
    principal: Principal,
    *,
    client_name: str,
    account: str | None = None,
) -> OAuthError:
    """The OAuth error for a refusal of `vault.exchange`; `account` is what the request named."""
    match refusal:
        case ConnectionRequired() | DelegationRequired():
            return await _with_link(deployment, refusal, principal, client_name=client_name, account=account)
        case AccountRequired():
            members = {"reason": "account", "provider": refusal.provider, "accounts": list(refusal.accounts)}
            return _error(as_oauth_error(refusal), refusal.description, members)
        case ApprovalRequired():
            members = {"reason": "approval", "provider": refusal.provider}
            return _error(as_oauth_error(refusal), refusal.description, members)
        case ScopeRefused() if refusal.missing:
            members = {"missing_scope": format_scope(refusal.missing)}
            return _error(as_oauth_error(refusal), refusal.description, members)
        case GrantEnded():  # RFC 8693 §2.2.2: it was the subject token that stood on this grant
            return OAuthError("invalid_request", "the subject token is not valid here", detail="grant ended")
        case _:
            return as_oauth_error(refusal)


def _error(known: OAuthError, description: str, members: Mapping[str, object]) -> OAuthError:
    return OAuthError(
        known.code, description, status=known.status, detail=known.detail, headers=known.headers, members=members
    )


async def _with_link(
    deployment: Deployment,
    refusal: ConnectionRequired | DelegationRequired,
    principal: Principal,
    *,
    client_name: str,
    account: str | None,
) -> OAuthError:
    """With the link that the person opens; where the operator has to act first, without."""
    upstream = deployment.vault.upstreams.get(refusal.provider)
    if upstream is None or not upstream.is_configured:
        return OAuthError(
            "invalid_target",
            f"this vault is not registered with {refusal.provider} yet: its operator does that",
            members={"reason": "not_configured", "provider": refusal.provider},
        )
    reason = refusal.reason if isinstance(refusal, ConnectionRequired) else "delegation"
    members: dict[str, object] = {"reason": reason, "provider": refusal.provider}
    description = "the person has to connect this account, or to allow its use: open one of the links given before"
    link = await connect_link(
        deployment,
        principal=principal,
        provider=refusal.provider,
        scopes=refusal.scopes,
        reason=reason,
        tool=client_name,
        account=refusal.connection_id or account,
    )
    if link is not None:
        members |= {"connect_uri": link.url, "verification_uri": link.device_url, "user_code": link.user_code}
        description = link.message
    if await _may_know(deployment, principal, refusal):
        description = refusal.description
        if refusal.missing:
            members["missing_scope"] = format_scope(refusal.missing)
    known = as_oauth_error(refusal)
    # Wider than what the account or this agent has is a matter of scope (RFC 6749 §5.2), the rest is not.
    code, status = ("invalid_scope", 400) if refusal.missing else (known.code, known.status)
    return OAuthError(code, description, status=status, detail=refusal.code, members=members)


async def _may_know(
    deployment: Deployment, principal: Principal, refusal: ConnectionRequired | DelegationRequired
) -> bool:
    """Whether the refusal names no account, or one that this agent may use."""
    if refusal.connection_id is None:
        return isinstance(refusal, ConnectionRequired)  # else it differs for an account that there is
    held = await delegations.get(
        deployment.database,
        user_id=principal.user_id,
        client_id=principal.client_id,
        connection_id=refusal.connection_id,
    )
    return held is not None and bool(held.scopes) and held.is_live(deployment.now())
