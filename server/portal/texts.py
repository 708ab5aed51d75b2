"""The vault's own vocabulary in plain words: token scopes, kinds of agents, states, events. No decisions."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from typing import Final

from server.http.page_texts import CATALOGUE, text
from vault.records import Client, ClientKind, Event, Grant

_KEPT_CONTROLS: Final = "\n\t"
_UNSEEN: Final = frozenset({"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"})


def token_scope(scope: str) -> str:
    """A scope of our own tokens in words."""
    return CATALOGUE["token_scopes"].get(scope, scope)


def client_kind(client: Client) -> str:
    """How the agent became known."""
    return CATALOGUE["client_kind"][client.kind.value]


def is_unverified(client: Client) -> bool:
    """Whether the agent wrote its own name and no operator vouches for it."""
    return client.kind in {ClientKind.DYNAMIC, ClientKind.METADATA}


def grant_end(grant: Grant) -> str:
    """Why a sign-in ended, in words; empty while it lives."""
    if grant.is_live:
        return ""
    return CATALOGUE["grant_end"].get(grant.revoked_reason or "", text("one_agent.ended"))


def status(name: str) -> str:
    """A connection's state in words."""
    return CATALOGUE["status"].get(name, name)


def status_hint(name: str) -> str:
    """What to do about a connection's state; empty when nothing."""
    return CATALOGUE["status_hint"].get(name, "")


def event(event: Event) -> str:
    """What happened, in words; a kind without words stands for itself."""
    return CATALOGUE["event"].get(event.kind, event.kind.replace(".", " ").replace("_", " ").capitalize())


def details(event: Event, *, beside: str = "") -> str:
    """The facts of an event in one line, without an account that is shown `beside` it."""
    return in_a_line({name: value for name, value in event.details.items() if name != "account" or value != beside})


def in_a_line(facts: Mapping[str, object]) -> str:
    """Facts with their names; empty ones are left out."""
    parts: list[str] = []
    for name, value in facts.items():
        match value:
            case None | "" | []:
                continue
            case bool():
                shown = text("common.yes") if value else text("common.no")
            case list() | tuple():
                shown = ", ".join(str(item) for item in value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] -- JSON scalars
            case _:
                shown = str(value)
        parts.append(f"{name.replace('_', ' ')}: {shown}")
    return " · ".join(parts)


def visible(value: object) -> str:
    """An argument as the person must see it: nothing hidden, nothing that changes how the rest is read.

    Invisible characters (control, bidirectional, zero-width) are shown as their code points.
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
    return "".join(
        letter if letter in _KEPT_CONTROLS or unicodedata.category(letter) not in _UNSEEN else f"‹U+{ord(letter):04X}›"
        for letter in text
    )
