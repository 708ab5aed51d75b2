"""Names in the settings that no tool has yet: those of an MCP server's tools, which are known once it is accepted.

The settings are read before the vault is open. A caller that collects such names must check them against the stored
servers; all other callers refuse them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from server.provider_settings import SettingsRefused
from server.settings import Settings
from server.tool_settings import ToolChoice

_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class LateName:
    """A name or pattern that nothing matches, the setting that has it, and the refusal that it deserves by itself."""

    setting: str
    name: str
    problem: str

    def may_be_of(self, server: str) -> bool:
        """Whether this can name a tool of the MCP server, or its tool set."""
        literal, prefix = _WILDCARD.split(self.name)[0], f"{server.replace('-', '_')}_"
        return (
            self.name == server or literal.startswith(prefix) or (literal != self.name and prefix.startswith(literal))
        )


def names_in(settings: Settings) -> Iterator[LateName]:
    """Every name and pattern of tools and tool sets in the settings, unknown or not."""
    choices = {
        "tools": settings.tools,
        **{f"tools.sets.{name}": one for name, one in settings.tools.sets.items()},
        **{f"tools.clients.{name}": one for name, one in settings.tools.clients.items()},
    }
    named = [(f"{at}.{kind}", one) for at, choice in choices.items() for kind, one in _names_of(choice)]
    named += [("approvals.ask", one) for one in settings.approvals.ask]
    named += [("approvals.no_standing", one) for one in settings.approvals.no_standing]
    yield from (LateName(setting, name, "") for setting, name in named)


def _names_of(choice: ToolChoice) -> Iterator[tuple[str, str]]:
    profile = getattr(choice, "profile", None)
    yield from (("enable", one) for one in choice.enable)
    yield from (("disable", one) for one in choice.disable)
    if isinstance(profile, str):
        yield "profile", profile


def note_or_refuse(late: list[LateName] | None, setting: str, name: str, problem: str) -> None:
    """Collect the name where someone collects. Raises SettingsRefused elsewhere."""
    if late is None:
        raise SettingsRefused(problem)
    late.append(LateName(setting, name, problem))


def check_late_names(late: Sequence[LateName], servers: Iterable[str]) -> None:
    """Raises SettingsRefused for a name that is of no MCP server here."""
    known = tuple(servers)
    for one in late:
        if not any(one.may_be_of(server) for server in known):
            raise SettingsRefused(one.problem)
