"""Everything that the vault refuses, as one small tree. None carries a URL: the server makes the link for the person.

`code` is stable, `description` may be shown to the person and the agent, `detail` goes to the log only.
"""

from __future__ import annotations


class VaultError(Exception):
    """Base of the tree; never raised itself."""

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


class DelegationRequired(VaultError):
    """The connection exists, but the person has not let this agent use it with these scopes.

    `missing` names the scopes that the agent's live permission lacks; it is empty when the agent has no permission.
    `connection_id` is None while no account is selected; if the agent named an account it may not use, `accounts` names
    those it may. `is_beyond_rule`: what is missing the group's rule leaves out, so the person can't allow it.
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
    """The person wants to approve each such call and has not approved this one.

    `can_ask`: the call is a tool call, whose arguments can be shown, or releases the account's whole token, once.
    `rule` and `digest`: of the operator's rules, if one of them asks for the approval.
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
    """The person has several accounts at this provider and the call names none; never a silent first match."""

    code = "account_required"

    def __init__(self, description: str, *, provider: str, accounts: tuple[str, ...], detail: str = "") -> None:
        super().__init__(description, detail=detail)
        self.provider = provider
        self.accounts = accounts


class ToolNotOffered(VaultError):
    """The tool is not in the tool set that this agent has: `tool_set` is its name."""

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
    """The provider answered this call with 401, though the account's credential works or no one can tell."""

    code = "upstream_unauthorized"


class ScopeRefused(VaultError):
    """The request asks for authority that can never be given here: unknown scopes, or outside the operator's policy."""

    code = "invalid_scope"

    def __init__(self, description: str, *, missing: frozenset[str], detail: str = "") -> None:
        super().__init__(description, detail=detail)
        self.missing = missing


class ItemRefused(VaultError):
    """The request asks for a token for one thing only, and the provider does not issue such tokens.

    Unlike scopes, the vault cannot enforce this, so it gives nothing wider instead.
    """

    code = "invalid_target"


class GrantEnded(VaultError):
    """The agent's own grant with the vault is revoked, or its client or user is gone."""

    code = "invalid_grant"


class TemporarilyUnavailable(VaultError):
    """Try again after `retry_after` seconds; nothing else is needed."""

    code = "temporarily_unavailable"

    def __init__(self, description: str, *, retry_after: int, detail: str = "") -> None:
        super().__init__(description, detail=detail)
        self.retry_after = retry_after


class ProviderSilent(TemporarilyUnavailable):
    """The provider did not answer a refresh, so it is unknown whether its token was spent. The vault tries again."""


class StorageBusy(TemporarilyUnavailable):
    """The database did not answer in time, or was cut off. Nothing can be recorded about it either."""


class CiphertextRejected(VaultError):
    """A sealed value does not open under this key and context: moved, altered, or shredded."""

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
    """A record is not in a state that allows the step: a used code, an expired ticket, a revoked grant."""

    code = "transition_refused"
