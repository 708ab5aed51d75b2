"""A policy of the operator's own, outside the vault, that may veto an exchange: what it is asked. No I/O here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PolicyQuestion:
    """Who would use which account, through which agent, with which scopes, and for what."""

    user_id: str
    client_id: str
    actors: tuple[str, ...]
    provider: str
    connection_id: str
    account: str
    scopes: frozenset[str]
    purpose: str  # a tool's name, or what else the account is used for


PolicyCheck = Callable[[PolicyQuestion], Awaitable[bool]]  # raises TemporarilyUnavailable when nobody answers
