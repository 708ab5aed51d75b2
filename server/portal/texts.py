"""The vault's own vocabulary in plain words: token scopes, kinds of agents, states, events. No decisions."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from typing import Final

from vault.records import Client, ClientKind, Event

_TOKEN_SCOPES: Final[Mapping[str, str]] = {
    "tools": "Call this vault's tools, within what you allow for each account",
    "exchange": "Fetch access to your accounts for a program of its own, within what you allow",
    "connections": "See which accounts you have connected, and their state",
    "openid": "Know your user id here",
    "profile": "Know your name here",
    "offline_access": "Stay signed in until you cut it off",
}
_KINDS: Final[Mapping[ClientKind, str]] = {
    ClientKind.MANUAL: "added by the operator",
    ClientKind.DYNAMIC: "registered itself",
    ClientKind.METADATA: "described by a page on the web",
    ClientKind.LOCAL: "a program on this computer",
}
_STATUS: Final[Mapping[str, str]] = {
    "active": "connected",
    "expiring": "ends within a week",
    "waiting": "waiting for the provider",
    "ambiguous": "last renewal uncertain",
    "needs_reauth": "needs you again",
    "revoked": "disconnected",
}
_STATUS_HINTS: Final[Mapping[str, str]] = {
    "expiring": "The provider ends this connection soon. Reconnect to keep it.",
    "waiting": "The provider did not answer the last renewal. The vault tries again by itself.",
    "ambiguous": "The provider did not answer the last renewal. If tools keep failing, reconnect.",
    "needs_reauth": "The provider does not accept this connection any more. Reconnect to use it again.",
}
_EVENTS: Final[Mapping[str, str]] = {
    "session.started": "You signed in",
    "session.ended": "You signed out",
    "session.refused": "A sign-in with your name failed",
    "user.created": "Your account was made",
    "user.password_changed": "Your password was changed",
    "client.registered": "An agent was registered",
    "consent.given": "You let an agent in",
    "consent.refused": "You turned an agent away",
    "grant.created": "An agent got access",
    "grant.revoked": "An agent's access ended",
    "token.issued": "An agent got a token",
    "token.refreshed": "An agent renewed its token",
    "token.refused": "An agent asked for too many tokens",
    "token.revoked": "An agent's token was revoked",
    "token.exchanged": "An agent got access to an account",
    "exchange.refused": "An agent was refused access to an account",
    "handle.issued": "An agent got a handle for calls to an account through the vault",
    "token.released": "An agent was handed a token of an account",
    "grant.derived": "A program acts for you by another one's access",
    "worker.refused": "A worker was turned away",
    "user.linked": "You were linked to an identity elsewhere",
    "tool.called": "An agent used a tool",
    "proxy.called": "An agent called a provider's API through the vault",
    "connect.declined": "You declined to connect",
    "connect.refused": "A connect link was opened by the wrong person",
    "approval.requested": "An agent asked you about a call",
    "approval.given": "You said yes to a call",
    "approval.refused": "A call got no yes",
    "approval.consumed": "A call went through with your yes",
    "delegation.asks": "You changed what you are asked about each time",
    "delegation.default": "You chose an account for an agent that names none",
    "connection.opened": "An account was connected",
    "connection.refused": "Connecting an account failed",
    "connection.refreshed": "A connection was renewed",
    "connection.narrowed": "A token that may do less was made",
    "connection.closed": "An account was disconnected",
    "connection.needs_reauth": "A connection needs you again",
    "connection.expiring": "A provider ends a connection within a week",
    "connection.quarantined": "A backup was restored, and a connection did not come back whole",
    "delegation.changed": "You changed what an agent may use",
    "delegation.extended": "You let an agent use an account",
    "delegation.revoked": "You took an account away from an agent",
    "agent.cut_off": "You cut an agent off",
    "connection.upstream_revoked": "An account's access was ended at the provider",
    "connection.upstream_revocation_failed": "Ending an account's access at the provider failed",
    "owner.found": "A program on this computer acts as you",
}
_KEPT_CONTROLS: Final = "\n\t"
_UNSEEN: Final = frozenset({"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"})


def token_scope(scope: str) -> str:
    """A scope of our own tokens in words."""
    return _TOKEN_SCOPES.get(scope, scope)


def client_kind(client: Client) -> str:
    """How the agent came to be known."""
    return _KINDS[client.kind]


def is_unverified(client: Client) -> bool:
    """Whether nobody vouches for the agent's name: it wrote it itself."""
    return client.kind in {ClientKind.DYNAMIC, ClientKind.METADATA}


def status(name: str) -> str:
    """A connection's state in words."""
    return _STATUS.get(name, name)


def status_hint(name: str) -> str:
    """What to do about a connection's state; empty when nothing."""
    return _STATUS_HINTS.get(name, "")


def event(event: Event) -> str:
    """What happened, in words; a kind without words stands for itself."""
    return _EVENTS.get(event.kind, event.kind.replace(".", " ").replace("_", " ").capitalize())


def details(event: Event, *, beside: str = "") -> str:
    """The facts of an event in one line, without an account that stands `beside` it anyway."""
    return in_a_line({name: value for name, value in event.details.items() if name != "account" or value != beside})


def in_a_line(facts: Mapping[str, object]) -> str:
    """Facts with their names; those that say nothing are left out."""
    parts: list[str] = []
    for name, value in facts.items():
        match value:
            case None | "" | []:
                continue
            case bool():
                shown = "yes" if value else "no"
            case list() | tuple():
                shown = ", ".join(str(item) for item in value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] -- JSON scalars
            case _:
                shown = str(value)
        parts.append(f"{name.replace('_', ' ')}: {shown}")
    return " · ".join(parts)


def visible(value: object) -> str:
    """An argument as the person must see it: nothing hidden, nothing that changes how the rest is read.

    What has no shape of its own (control, bidirectional and invisible characters) is shown as its code point.
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
    return "".join(
        letter if letter in _KEPT_CONTROLS or unicodedata.category(letter) not in _UNSEEN else f"‹U+{ord(letter):04X}›"
        for letter in text
    )
