"""How people sign in again in known clients: the commands, as tested or as documented.

Chosen by the User-Agent, which anyone can send, so it only affects the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class SignInCommand:
    """NAME in a command stands for the name that the person gave this vault in their client."""

    client: str
    agent: str  # how its User-Agent begins
    command: str


KNOWN: Final = (
    SignInCommand("Claude Code", "claude-code", "claude mcp login NAME"),
    SignInCommand("Codex", "codex", "codex mcp login NAME"),
    SignInCommand("opencode", "opencode", "opencode mcp auth NAME"),
    SignInCommand("Gemini CLI", "gemini", "/mcp auth NAME"),
    SignInCommand("mcporter", "mcporter", "mcporter auth NAME --reset"),
    SignInCommand("mcp-remote", "mcp-remote", "rm -r ~/.mcp-auth"),
)


def sign_in_words(user_agent: str = "") -> str:
    """How a person signs their agent in again: one command if the client is known, else all of them."""
    said = user_agent.lower()
    found = [one for one in KNOWN if said.startswith(one.agent)]
    commands = "; ".join(f"{one.client}: {one.command}" for one in found or KNOWN)
    other = "" if found else "; other clients: remove this server and add it again"
    return f"Sign in again from the client. {commands}{other} (NAME is what you call this server there)"
