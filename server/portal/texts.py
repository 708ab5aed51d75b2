"""The vault's own vocabulary in plain words: token scopes, kinds of agents, states. No decisions."""

from __future__ import annotations

from collections.abc import Mapping

from server.http.page_texts import section, text
from server.http.page_texts import visible as visible
from vault.records import Client, ClientKind, Grant


def token_scope(scope: str) -> str:
    """A scope of our own tokens in words."""
    return section("token_scopes").get(scope, scope)


def client_kind(client: Client) -> str:
    """How the agent became known."""
    return section("client_kind")[client.kind.value]


def is_unverified(client: Client) -> bool:
    """Whether the agent wrote its own name and no operator vouches for it."""
    return client.kind in {ClientKind.DYNAMIC, ClientKind.METADATA}


def grant_end(grant: Grant) -> str:
    """Why a sign-in ended, in words; empty while it lives."""
    if grant.is_live:
        return ""
    return section("grant_end").get(grant.revoked_reason or "", text("one_agent.ended"))


def status(name: str) -> str:
    """A connection's state in words."""
    return section("status").get(name, name)


def status_hint(name: str) -> str:
    """What to do about a connection's state; empty when nothing."""
    return section("status_hint").get(name, "")


def in_a_line(facts: Mapping[str, object]) -> str:
    """Facts with their names; empty ones are left out."""
    parts: list[str] = []
    for name, value in facts.items():
        shown = fact(value)
        if shown:
            parts.append(f"{name.replace('_', ' ')}: {shown}")
    return " · ".join(parts)


def fact(value: object) -> str:
    """One fact of an event as text; empty if it says nothing."""
    match value:
        case None | "" | []:
            return ""
        case bool():
            return text("common.yes") if value else text("common.no")
        case list() | tuple():
            return ", ".join(str(item) for item in value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] -- JSON scalars
        case _:
            return str(value)
