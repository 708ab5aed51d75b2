"""The answer to a refused exchange: a registered code, what is missing, and the link that fixes it.

The codes are those of RFC 6749 §5.2, RFC 8693 §2.2.2 and RFC 8707 §2; the other members of the answer are ours.
`server.connecting.agent_refusals` has the text for each refusal.
"""

from __future__ import annotations

from server.connecting.agent_refusals import tell
from server.deployment import Deployment
from server.oauth.exchange.subjects import refusal as subject_refusal
from server.oauth.rules import OAuthError
from server.oauth.wire import told_error
from vault.records import Principal
from vault.refusals import GrantEnded, VaultError


async def as_answer(
    deployment: Deployment,
    refusal: VaultError,
    principal: Principal,
    *,
    client_name: str,
    account: str | None = None,
) -> OAuthError:
    """The OAuth error for a refusal of `vault.exchange`; `account` is what the request named."""
    if isinstance(refusal, GrantEnded):  # RFC 8693 §2.2.2: the subject token depended on this grant
        return subject_refusal("the grant has ended")
    return told_error(await tell(deployment, refusal, principal, tool=client_name, account=account))
