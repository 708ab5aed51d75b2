"""All refusals of the vault, as one small class tree. None contains a URL: the server creates the link for the person.

`code` is stable, `description` may be shown to the person and the agent, `detail` goes to the log only.
"""

from __future__ import annotations

AGAIN = 5  # seconds after which something that takes a moment is tried again


class VaultError(Exception):
    """Base class of all refusals; never raised itself."""

    code = "vault_error"

    def __init__(self, description: str, *, detail: str = "") -> None:
        super().__init__(description)
        self.description = description
        self.detail = detail


class ConnectionRequired(VaultError):
    """No usable connection: none exists, the person must reconnect it, or it lacks scopes that only the person can add.

    `reason` is `missing`, `needs_reauth`, `scopes` (the account has not granted them) or `ambiguous` (a refresh with an
    unknown result). `missing` names the scopes that the account has not granted.
    """

    code = "connection_required"

    def __init__(
        self,
        description: str,
        *,
        provider: str,
        reason: str,
        scopes: frozenset[str],
        connection_id: str | None = None,
        missing: frozenset[str] = frozenset(),
        detail: str = "",
    ) -> None:
        super().__init__(description, detail=detail)
        self.provider = provider
        self.reason = reason
        self.scopes = scopes
        self.connection_id = connection_id
        self.missing = missing

    def with_description(self, description: str) -> ConnectionRequired:
        """The same refusal in other words."""
        return ConnectionRequired(
            description,
            provider=self.provider,
            reason=self.reason,
            scopes=self.scopes,
            connection_id=self.connection_id,
            missing=self.missing,
            detail=self.detail,
        )


class DelegationRequired(VaultError):
    """The connection exists, but the person hasn't let this agent use it with these scopes.

    `missing` names the scopes that the agent's live permission lacks; it is empty when the agent has no permission.
    `connection_id` is None while no account is selected; if the agent named an account that it may not use, `accounts`
    names those that it may use. `is_beyond_rule`: the group's rule excludes the missing scopes, so the person can't
    allow them.
    """

    code = "delegation_required"

    def __init__(
        self,
        description: str,
        *,
        provider: str,
        scopes: frozenset[str],
        connection_id: str | None,
        missing: frozenset[str] = frozenset(),
        accounts: tuple[str, ...] = (),
        is_beyond_rule: bool = False,
        detail: str = "",
    ) -> None:
        super().__init__(description, detail=detail)
        self.provider = provider
        self.scopes = scopes
        self.connection_id = connection_id
        self.missing = missing
        self.accounts = accounts
        self.is_beyond_rule = is_beyond_rule


class ApprovalRequired(VaultError):
    """The person wants to approve each such call and hasn't approved this one.

    `can_ask`: the call is a tool call, whose arguments can be shown, or releases the account's whole token, once.
    `rule` and `digest`: those of the operator's rules, if one of them requires the approval.
    """

    code = "approval_required"

    def __init__(
        self,
        description: str,
        *,
        provider: str,
        scopes: frozenset[str],
        connection_id: str,
        account: str,
        label: str,
        can_ask: bool,
        rule: str = "",
        digest: str = "",
        detail: str = "",
    ) -> None:
        super().__init__(description, detail=detail)
        self.provider = provider
        self.scopes = scopes
        self.connection_id = connection_id
        self.account = account
        self.label = label
        self.can_ask = can_ask
        self.rule = rule
        self.digest = digest


class AccountRequired(VaultError):
    """The person has several accounts at this provider and the call names none. The vault never silently picks one."""

    code = "account_required"

    def __init__(self, description: str, *, provider: str, accounts: tuple[str, ...], detail: str = "") -> None:
        super().__init__(description, detail=detail)
        self.provider = provider
        self.accounts = accounts


class ToolNotOffered(VaultError):
    """The tool isn't in this agent's tool set, whose name is `tool_set`."""

    code = "tool_not_offered"

    def __init__(self, description: str, *, tool_set: str, detail: str = "") -> None:
        super().__init__(description, detail=detail)
        self.tool_set = tool_set


class PolicyRefused(VaultError):
    """The operator's own policy forbids this use of the account (`vault.refresh.policy_checks`)."""

    code = "policy_refused"

    def __init__(self, description: str, *, rule: str = "", digest: str = "", detail: str = "") -> None:
        super().__init__(description, detail=detail)
        self.rule = rule
        self.digest = digest


class CallUnauthorized(VaultError):
    """The provider answered this call with 401, although the account's credential works or can't be checked."""

    code = "upstream_unauthorized"


class ScopeRefused(VaultError):
    """The request asks for authority that can never be given here: unknown scopes, or scopes outside the operator's
    policy."""

    code = "invalid_scope"

    def __init__(self, description: str, *, missing: frozenset[str], detail: str = "") -> None:
        super().__init__(description, detail=detail)
        self.missing = missing


class ItemRefused(VaultError):
    """The request asks for a token for one thing only, and the provider does not issue such tokens.

    Unlike with scopes, the vault can't enforce this itself, so it gives no wider token instead.
    """

    code = "invalid_target"


class GrantEnded(VaultError):
    """The agent's own grant with the vault is revoked, or its client or user is gone."""

    code = "invalid_grant"


class TemporarilyUnavailable(VaultError):
    """Try again after `retry_after` seconds; nothing else is needed."""

    code = "temporarily_unavailable"

    def __init__(self, description: str, *, retry_after: int = AGAIN, detail: str = "") -> None:
        super().__init__(description, detail=detail)
        self.retry_after = retry_after


class ProviderSilent(TemporarilyUnavailable):
    """The provider didn't answer a refresh, so it is unknown whether its token was used. The vault tries again."""


class StorageBusy(TemporarilyUnavailable):
    """The database didn't answer in time, or was cut off, so nothing can be recorded about it either."""

    def __init__(self, description: str, *, retry_after: int = 1, detail: str = "") -> None:
        super().__init__(description, retry_after=retry_after, detail=detail)


class CiphertextRejected(VaultError):
    """A sealed value doesn't open under this key and context: it was moved, altered, or shredded."""

    code = "ciphertext_rejected"


class KeyUnavailable(VaultError):
    """The key-encryption key is missing, or is not the one that sealed this database."""

    code = "key_unavailable"


class StorageUnavailable(VaultError):
    """The database cannot be reached, written or understood."""

    code = "storage_unavailable"


class ValueUnstorable(StorageUnavailable):
    """A text or number in the request that the database can't hold, such as NUL or half of a surrogate pair."""

    code = "value_unstorable"


class TransitionRefused(VaultError):
    """A record isn't in a state that allows the step: a used code, an expired ticket, a revoked grant."""

    code = "transition_refused"


class PersonEnded(TransitionRefused):
    """The person was disabled or deleted in the meantime."""
