"""The one table from refusals to what a caller sees: HTTP status, OAuth error code, and a text that says the mend.

Refusals of `vault` know neither HTTP nor OAuth; OAuth endpoints and tools both look them up here. Errors of the
authorization server itself (`server.oauth.rules.OAuthError`) already carry their registered code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vault import refusals
from vault.refusals import VaultError


@dataclass(frozen=True, slots=True)
class Answer:
    """What a refusal becomes on the wire. `oauth_error` is a registered code (RFC 6749 §5.2, RFC 8693 §2.2.2)."""

    status: int
    oauth_error: str


STORAGE_RETRY: Final = 5  # seconds until a database that was away is worth another try

_TABLE: dict[type[VaultError], Answer] = {
    refusals.ConnectionRequired: Answer(400, "invalid_target"),
    refusals.DelegationRequired: Answer(403, "access_denied"),
    refusals.AccountRequired: Answer(400, "invalid_target"),
    refusals.ScopeRefused: Answer(400, "invalid_scope"),
    refusals.GrantEnded: Answer(400, "invalid_grant"),
    refusals.TemporarilyUnavailable: Answer(503, "temporarily_unavailable"),
    refusals.CiphertextRejected: Answer(500, "server_error"),
    refusals.KeyUnavailable: Answer(500, "server_error"),
    refusals.StorageUnavailable: Answer(503, "temporarily_unavailable"),
    refusals.TransitionRefused: Answer(400, "invalid_grant"),
}


def answer_for(refusal: VaultError) -> Answer:
    """The answer for a refusal; a type that is not in the table answers as its nearest ancestor, else 400."""
    for kind in type(refusal).__mro__:
        found = _TABLE.get(kind)
        if found is not None:
            return found
    return Answer(400, "invalid_request")


def retry_after(refusal: VaultError) -> int | None:
    """Seconds for the header `Retry-After` (RFC 9110 §10.2.3) of a 503; None where trying again does not help."""
    match refusal:
        case refusals.TemporarilyUnavailable():
            return refusal.retry_after
        case refusals.StorageUnavailable():
            return STORAGE_RETRY
        case _:
            return None


def tool_text(refusal: VaultError) -> str:
    """What a tool says of a refusal: the plain description, and when to try again. Never `detail`."""
    match refusal:
        case refusals.TemporarilyUnavailable():
            return f"{refusal.description} Try again in {refusal.retry_after} s."
        case refusals.CiphertextRejected() | refusals.KeyUnavailable():
            return (
                "This connection cannot be opened any more. Disconnect it and connect it again on the connections page."
            )
        case refusals.StorageUnavailable():
            return "The vault cannot reach its storage. Nothing is lost; try again in a minute."
        case refusals.AccountRequired():
            return f"{refusal.description} Accounts: {', '.join(refusal.accounts)}."
        case _:
            return refusal.description
