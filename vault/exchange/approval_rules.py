"""Whether the person is asked about a call each time: the rules of a permission and of the operator. Pure.

Asking and spending the answer is `vault.approvals`; `vault.exchange` does it last, before a token is opened.
"""

from __future__ import annotations

from dataclasses import dataclass

from vault.scopes import expand
from vault.upstream import UpstreamPolicy

TOOL = "tool:"  # before a tool's name among what the person is asked for each time
_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ApprovalQuestion:
    """What the person of one agent is asked about at one account; `delegated` is what the agent may do there."""

    entries: frozenset[str]
    delegated: frozenset[str]
    policy: UpstreamPolicy

    def is_about(self, scopes: frozenset[str], *, tool: str | None) -> bool:
        """Whether a call with these scopes is one of it; `tool` None: what is handed out for later use.

        Where no tool is called, asking for a tool asks for its scopes: they must not be had by another way.
        """
        asked: frozenset[str] = frozenset()
        for entry in self.entries:
            name = entry.removeprefix(TOOL)
            if name == entry:
                asked |= {entry}
            elif tool is not None:
                if tool == name:
                    return True
            else:
                asked |= self.policy.tool_scopes.get(name, _NOTHING)
        return bool(asked) and self._reaches(scopes, asked)

    def _reaches(self, scopes: frozenset[str], asked: frozenset[str]) -> bool:
        """Whether the scopes include an asked one, or a part of one with which something can be changed.

        A part of `drive` is `drive.file`: whoever may have it only as a part of what is asked about is asked about it.
        """
        covers = self.policy.covers
        reach = expand(scopes, covers)
        if not reach.isdisjoint(asked):
            return True
        parts = reach & expand(asked, covers) - self.policy.reading
        if not parts:
            return False
        free = frozenset(scope for scope in self.delegated if expand(frozenset({scope}), covers).isdisjoint(asked))
        return not parts <= expand(free, covers)
