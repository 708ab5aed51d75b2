"""What a refused exchange tells its client: a registered code, what is missing, and the link that mends it.

The codes are those of RFC 6749 §5.2, RFC 8693 §2.2.2 and RFC 8707 §2; the further members of the answer are ours. A
client learns nothing of accounts that it may not use. Links are made by `server.connecting.links`.
"""

from __future__ import annotations

from collections.abc import Mapping

from server.connecting.links import tell
from server.deployment import Deployment
from server.oauth.rules import OAuthError
from server.oauth.wire import as_oauth_error
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
    told = await tell(deployment, refusal, principal, tool=client_name, account=account)
    if not told.is_configured:
        members = {"reason": "not_configured", "provider": refusal.provider}
        return OAuthError("invalid_target", told.text, members=members)
    members: dict[str, object] = {"reason": told.reason, "provider": refusal.provider}
    if told.link is not None:
        members |= told.link.members()
    if isinstance(told.refusal, DelegationRequired) and told.refusal.accounts:
        members["accounts"] = list(told.refusal.accounts)
    missing, known = told.refusal.missing, as_oauth_error(told.refusal)
    if missing:
        members["missing_scope"] = format_scope(missing)
    # Wider than what the account or this agent has is a matter of scope (RFC 6749 §5.2), the rest is not.
    code, status = ("invalid_scope", 400) if missing else (known.code, known.status)
    return OAuthError(code, told.text, status=status, detail=refusal.code, members=members)
