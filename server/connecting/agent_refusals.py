"""The vault's refusals as agents see them, from the table in `server.errors`, for all interfaces.

MCP, /token, and the proxy send the same text, each in its own format. If the person can help, this module creates a
link for them (`server.connecting.links`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from server import errors
from server.connecting.links import ConnectLink, connect_link, link_message
from server.deployment import Deployment
from server.errors import KINDS, RefusalKind, Wording
from vault import delegations
from vault.records import Principal, format_scope
from vault.refusals import (
    AccountRequired,
    ApprovalRequired,
    ConnectionRequired,
    DelegationRequired,
    ScopeRefused,
    VaultError,
)

NOT_CONFIGURED = "not_configured"  # the operator must act first, so there is no link
Linked = ConnectionRequired | DelegationRequired


@dataclass(frozen=True, slots=True)
class AgentRefusal:
    """A refusal as an agent may see it, with the parts that each interface needs.

    `text` explains what happened and the next step; `description` is the short form for OAuth answers. `members` is the
    machine-readable form and includes the link, if any. `link` is None if no link helps or if this grant recently got
    too many.
    """

    refusal: VaultError  # names no account that the agent may not use
    wording: Wording
    text: str = field(repr=False)  # may hold the link
    description: str = field(repr=False)
    answer: RefusalKind  # for OAuth endpoints
    retry_after: int | None = None
    members: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)
    link: ConnectLink | None = None

    @property
    def code(self) -> str:
        """The vault's own code for the refusal."""
        return self.refusal.code

    @property
    def detail(self) -> str:
        """The cause, for the log only."""
        return self.refusal.detail or self.code

    @property
    def is_configured(self) -> bool:
        """Whether the person can help; otherwise the operator must act first."""
        return self.members.get("reason") != NOT_CONFIGURED

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers for an HTTP answer."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def plain(refusal: VaultError) -> AgentRefusal:
    """The agent's form of a refusal that no link helps with."""
    wording = errors.wording_of(refusal)
    return AgentRefusal(
        refusal,
        wording,
        text=errors.words_of(refusal),
        description=wording.sentence or refusal.description,
        answer=wording.answer,
        retry_after=errors.retry_after(refusal),
        members=_members(refusal),
    )


def _members(refusal: VaultError) -> Mapping[str, object]:
    match refusal:
        case AccountRequired():
            return {"reason": "account", "provider": refusal.provider, "accounts": list(refusal.accounts)}
        case ApprovalRequired():
            return {"reason": "approval", "provider": refusal.provider}
        case ScopeRefused() if refusal.missing:
            return {"missing_scope": format_scope(refusal.missing)}
        case _:
            return {}


async def tell(
    deployment: Deployment,
    refusal: VaultError,
    principal: Principal | None,
    *,
    tool: str,
    account: str | None = None,
    offered: ConnectLink | None = None,
) -> AgentRefusal:
    """The agent's form of a refusal by `vault.exchange`, with a new link for its person or the one `offered`.

    `tool` tells the person what the account is for; `account` is the account that the request named. Only agents that
    may use an account learn its name, state, and scopes. For every other account the answer is the same, whether the
    account needs reconnecting, has too few scopes, or just isn't allowed; the link shows the person the true reason.
    """
    if principal is None or not isinstance(refusal, ConnectionRequired | DelegationRequired):
        return plain(refusal)
    heard = refusal if await _may_know(deployment, refusal, principal) else _hide_reason(refusal)
    told, reason = plain(heard), _reason(heard)
    upstream, provider = deployment.vault.upstreams.get(refusal.provider), deployment.catalog.get(refusal.provider)
    retired = None if provider is None else provider.retired
    if upstream is None or not upstream.is_configured or retired is not None:
        text = retired or (
            f"{refusal.provider} isn't set up on this vault. An admin can set it up at "
            f"{deployment.url(f'/administration/providers/{refusal.provider}')}, or with `token-vault providers setup "
            f"{refusal.provider}`."
        )
        members = {"reason": NOT_CONFIGURED, "provider": refusal.provider}
        return replace(told, text=text, description=text, members=members, answer=KINDS["invalid_target"])
    link = offered or await connect_link(
        deployment,
        principal=principal,
        provider=refusal.provider,
        scopes=refusal.scopes,
        reason=_reason(refusal),
        tool=tool,
        account=refusal.connection_id or account,
    )
    if link is None:
        text = (
            "This agent asked for too many links within ten minutes. Ask the person to open an earlier "
            f"link, or {deployment.url('/connections')}. Don't call again before that."
        )
    else:
        text = link.message if link is offered else _message(deployment, heard, is_whole=heard is refusal, tool=tool)
        link = replace(link, message=text)
    return replace(
        told,
        text=text,
        description=text,
        # Scopes that the account or this agent lacks are an invalid scope (RFC 6749 §5.2); other refusals are not.
        answer=KINDS["invalid_scope"] if heard.missing else told.answer,
        members=_linked_members(heard, link, reason=reason),
        link=link,
    )


def _message(deployment: Deployment, heard: Linked, *, is_whole: bool, tool: str) -> str:
    """The message for the person next to the link; includes the refusal's description if the agent may see it."""
    if isinstance(heard, DelegationRequired) and heard.accounts:
        return heard.description
    found = deployment.catalog.get(heard.provider)
    message = link_message(heard.provider if found is None else found.title, reason=_reason(heard), tool=tool)
    return f"{message} {heard.description}" if is_whole else message


def _linked_members(heard: Linked, link: ConnectLink | None, *, reason: str) -> Mapping[str, object]:
    members: dict[str, object] = {"reason": reason, "provider": heard.provider}
    if link is not None:
        members |= link.members()
    if isinstance(heard, DelegationRequired) and heard.accounts:
        members["accounts"] = list(heard.accounts)
    if heard.missing:
        members["missing_scope"] = format_scope(heard.missing)
    return members


async def _may_know(deployment: Deployment, refusal: Linked, principal: Principal) -> bool:
    """Whether the refusal names no account, or one that this agent may use."""
    if refusal.connection_id is None:  # a missing permission reveals an account, unless it names usable ones
        return isinstance(refusal, ConnectionRequired) or bool(refusal.accounts)
    held = await delegations.get(
        deployment.database,
        user_id=principal.user_id,
        client_id=principal.client_id,
        connection_id=refusal.connection_id,
    )
    return held is not None and bool(held.scopes) and held.is_live(deployment.now())


def _hide_reason(refusal: Linked) -> DelegationRequired:
    return DelegationRequired(
        f"This agent can't use any {refusal.provider} account for this yet. "
        "Ask the person to allow it, then try again.",
        provider=refusal.provider,
        scopes=refusal.scopes,
        connection_id=None,
        detail=refusal.detail or refusal.code,
    )


def _reason(refusal: Linked) -> str:
    """missing | needs_reauth | scopes | ambiguous | delegation."""
    return refusal.reason if isinstance(refusal, ConnectionRequired) else "delegation"
