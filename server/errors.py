"""The one table from refusals to what a caller sees: HTTP status, OAuth error code, and a text that says the mend.

Refusals of `vault` know neither HTTP nor OAuth; OAuth endpoints and tools both look them up here. Errors of the
authorization server itself (`server.oauth.rules.OAuthError`) already carry their registered code. Every refusal that
there is has an entry, or is a kind of one that has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vault import clients, handles, refusals, tokens, users
from vault.audit import audit
from vault.keys import passwords, sealed_file
from vault.refusals import VaultError
from vault.storage import database


class PersonRefused(VaultError):
    """Base of what this package refuses a person on a page or in a terminal; never raised itself."""


class PagesElsewhere(PersonRefused):
    """The address of this vault's pages leads to somebody else, so no link to them is given."""

    code = "pages_elsewhere"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a refusal becomes on the wire. `oauth_error` is a registered code (RFC 6749 §5.2, RFC 8693 §2.2.2)."""

    status: int
    oauth_error: str


STORAGE_RETRY: Final = 5  # seconds until a database that was away is worth another try
CONFLICT_RETRY: Final = 1  # seconds until whoever was first is done

TABLE: dict[type[VaultError], Answer] = {
    refusals.ConnectionRequired: Answer(400, "invalid_target"),
    refusals.DelegationRequired: Answer(403, "access_denied"),
    refusals.ApprovalRequired: Answer(403, "access_denied"),
    refusals.AccountRequired: Answer(400, "invalid_target"),
    refusals.ItemRefused: Answer(400, "invalid_target"),
    refusals.ScopeRefused: Answer(400, "invalid_scope"),
    refusals.GrantEnded: Answer(400, "invalid_grant"),
    refusals.TemporarilyUnavailable: Answer(503, "temporarily_unavailable"),
    refusals.CiphertextRejected: Answer(500, "server_error"),
    refusals.KeyUnavailable: Answer(500, "server_error"),
    refusals.StorageUnavailable: Answer(503, "temporarily_unavailable"),
    refusals.TransitionRefused: Answer(400, "invalid_grant"),
    tokens.ResourceRefused: Answer(400, "invalid_target"),
    handles.HandleRefused: Answer(401, "invalid_token"),
    clients.ClientExists: Answer(400, "invalid_client_metadata"),
    users.NameRefused: Answer(400, "invalid_request"),
    users.NameTaken: Answer(409, "invalid_request"),
    users.IdentityTaken: Answer(409, "invalid_request"),
    passwords.PasswordRefused: Answer(400, "invalid_request"),
    database.Conflict: Answer(503, "temporarily_unavailable"),
    audit.ChainBroken: Answer(500, "server_error"),
    sealed_file.BackupRefused: Answer(400, "invalid_request"),
    PersonRefused: Answer(400, "invalid_request"),
}


def answer_for(refusal: VaultError) -> Answer:
    """The answer for a refusal: its own entry, or its nearest ancestor's."""
    for kind in type(refusal).__mro__:
        found = TABLE.get(kind)
        if found is not None:
            return found
    return Answer(500, "server_error")


def retry_after(refusal: VaultError) -> int | None:
    """Seconds for the header `Retry-After` (RFC 9110 §10.2.3) of a 503; None where trying again does not help."""
    match refusal:
        case refusals.TemporarilyUnavailable():
            return refusal.retry_after
        case refusals.StorageUnavailable():
            return STORAGE_RETRY
        case database.Conflict():
            return CONFLICT_RETRY
        case _:
            return None


def tool_text(refusal: VaultError) -> str:
    """What a tool says of a refusal: the plain description, and when to try again. Never `detail`."""
    match refusal:
        case refusals.TemporarilyUnavailable():
            return f"{_sentence(refusal)} Try again in {refusal.retry_after} s."
        case refusals.CiphertextRejected():
            return (
                "This connection cannot be opened any more. Disconnect it and connect it again on the connections page."
            )
        case refusals.KeyUnavailable():
            return "The vault cannot open its keys. Nothing is lost; only its operator can mend that."
        case refusals.StorageUnavailable():
            return "The vault cannot reach its storage. Nothing is lost; try again in a minute."
        case database.Conflict():
            return "Somebody else changed the same thing at this moment. Nothing was done; try again."
        case audit.ChainBroken():
            return "The vault's record of activity was changed by somebody. Its operator must look at that first."
        case refusals.AccountRequired():
            return f"{_sentence(refusal)} Accounts: {', '.join(refusal.accounts)}."
        case _:
            return _sentence(refusal)


def _sentence(refusal: VaultError) -> str:
    """The description, which may be the short form that OAuth answers carry, as a sentence."""
    text = refusal.description
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
