"""The vault's own vocabulary in plain words: token scopes, kinds of agents, states. No decisions."""

from __future__ import annotations

from collections.abc import Mapping

from providers.definitions.model import Provider
from providers.tools.spec import ToolSpec
from server.http.page_texts import section, text
from server.http.page_texts import visible as visible
from server.http.translations import translate, translate_filled
from vault.approvals.approvals import RELEASE
from vault.records import Client, ClientKind, Grant
from vault.refusals import VaultError


def token_scope(scope: str) -> str:
    """A scope of our own tokens in words."""
    return section("token_scopes").get(scope, scope)


def scope_title(provider: Provider | None, scope: str) -> str:
    """A scope of a provider in words; the scope itself where there are none."""
    known = None if provider is None else provider.scopes.get(scope)
    return scope if known is None else translate(known.title)


def tool_title(spec: ToolSpec | None, name: str = "") -> str:
    """A tool in words, or its `name` where it is gone."""
    if name == RELEASE:
        return text("approval.release_title")
    return name if spec is None else translate_filled(spec.title)


def refusal_words(refusal: VaultError) -> str:
    """What a refusal says to the person."""
    return translate_filled(refusal.description)


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
