"""Decide whether a call needs the person's approval, from the permission's and the operator's rules. Pure.

`vault.approvals.approvals` asks and uses up the answer; `vault.exchange` does so last, before it opens a token.
"""

from __future__ import annotations

from vault.classes.immutable import immutable
from vault.delegations import WRITES
from vault.refresh.policy_checks import PolicyVerdict
from vault.scopes import expand
from vault.upstream import UpstreamPolicy

TOOL = "tool:"  # prefix of a tool's name among the things that the person is asked about each time
_NOTHING: frozenset[str] = frozenset()


@immutable
class ApprovalQuestion:
    """What the person is asked about for one agent at one account; `delegated` is what the agent may do there.

    `required`: an operator's rule requires approval for this use, whatever the entries are.
    """

    entries: frozenset[str]
    delegated: frozenset[str]
    policy: UpstreamPolicy
    required: PolicyVerdict | None = None

    def is_about(self, scopes: frozenset[str], *, tool: str | None) -> bool:
        """Whether a call with these scopes needs approval; `tool` None: a token is released for later use.

        Without a tool call, an entry for a tool also covers its scopes, so that nothing else leads around the question.
        """
        if not self.entries:
            return False
        if WRITES in self.entries and self._may_write(scopes, tool):
            return True
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

    def _may_write(self, scopes: frozenset[str], tool: str | None) -> bool:
        if tool is not None:
            return tool in self.policy.writing_tools
        return not expand(scopes, self.policy.covers) <= self.policy.reading | self.policy.always_granted

    def _reaches(self, scopes: frozenset[str], asked: frozenset[str]) -> bool:
        """Whether the scopes include an asked one, or a part of one that allows changes.

        `drive.file` is a part of `drive`: an agent that holds it only as a part of an asked scope needs approval for
        it.
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


def can_stand(policy: UpstreamPolicy, *, delegated: frozenset[str], scopes: frozenset[str], tool: str) -> bool:
    """Whether a standing approval may allow a call of this tool: what the operator requires is asked each time."""
    if tool not in policy.standing_tools:
        return False
    required = ApprovalQuestion(policy.ask, delegated, policy)
    return not (required.entries and required.is_about(scopes, tool=tool))
