"""Questions to the operator's own policy, which may forbid an exchange or require the person's approval. No I/O here.

`server.policy` answers: rules in files, a decision point elsewhere, or both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Protocol

from vault.approvals.approvals import ToolCall
from vault.classes.immutable import immutable
from vault.storage.database import Reader


@immutable
class PolicyQuestion:
    """Who would use which account, through which agent, with which scopes, and for what.

    `call` is the tool call, if one is made. `wire` has more about a proxied call: `method`, `api`, `path` (a template).
    `is_trial`: nothing will be done, so nothing is counted.
    """

    user_id: str
    client_id: str
    actors: tuple[str, ...]
    provider: str
    connection_id: str
    account: str
    scopes: frozenset[str]
    purpose: str  # a tool's name, or another use of the account
    label: str  # the account's display name
    call: ToolCall | None = field(default=None, repr=False)
    wire: Mapping[str, str] = field(default_factory=dict[str, str])
    address: str = ""  # where the request came from; empty or no address: unknown
    signed_in_at: int | None = None
    is_strong: bool = False  # the person signed in with a passkey or several factors
    is_trial: bool = False


class PolicyOutcome(StrEnum):
    """A policy only takes away: `ALLOW` means what the vault itself allows."""

    ALLOW = "allow"
    ASK = "ask"  # the person must approve exactly this call
    FORBID = "forbid"


@immutable
class PolicyVerdict:
    """The answer. `rule` and `reason` are the operator's words; `digest` identifies the rules that gave it.
    `has_waited`: earlier reads may be stale.
    """

    outcome: PolicyOutcome = PolicyOutcome.ALLOW
    rule: str = ""
    reason: str = ""
    digest: str = ""
    has_waited: bool = False

    @property
    def words(self) -> str:
        """The rule that decided, as a sentence; empty when it wasn't a rule of ours."""
        if not self.rule:
            return ""
        return f"Rule {self.rule}: {self.reason}" if self.reason else f"Rule {self.rule}."


class PolicyCheck(Protocol):
    """Answers the question. Raises TemporarilyUnavailable when no one can."""

    async def __call__(self, question: PolicyQuestion, reader: Reader, /, *, now: int) -> PolicyVerdict: ...
