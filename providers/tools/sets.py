"""Tool sets: named subsets of the tools, so that an agent sees what it needs instead of everything. A set only leaves
tools out; it gives no permission. The sets here always exist; an operator adds others in the settings
(`server.mcp.offer.registry`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from providers.tools.search import ToolIndex
from providers.tools.spec import ToolSpec

EVERYTHING: Final = "everything"
READ_ONLY: Final = "read-only"
EVERYDAY: Final = "everyday"
# The most common tools to find, read and write in each service. Left out are tools that delete, tools that list a
# service's structure, and comments if issues can be read and written. Services that aren't listed here have few tools:
# those that delete nothing.
_EVERYDAY: Final = (
    *("slack_post", "slack_reply", "slack_direct_message", "slack_history", "slack_thread", "slack_search"),
    *("calendar_list", "calendar_create", "calendar_update", "calendar_free"),
    *("gmail_search", "gmail_read", "gmail_draft", "gmail_send", "drive_search", "drive_read"),
    *("outlook_search", "outlook_read", "outlook_draft", "outlook_send", "outlook_events", "outlook_event_create"),
    *("github_issue_search", "github_issue_read", "github_issue_create", "github_pulls", "github_pull_read"),
    *("jira_search", "jira_read", "jira_create", "linear_search", "linear_read", "linear_create"),
    *("notion_search", "notion_read", "notion_create", "hubspot_contacts", "salesforce_contacts", "facebook_post"),
)


@dataclass(frozen=True, slots=True)
class ToolSet:
    """One set: its name in settings and commands, its title on pages, and the names of its tools."""

    name: str
    title: str
    tools: frozenset[str]


def builtin_sets(specs: Sequence[ToolSpec], *, titles: Mapping[str, str]) -> tuple[ToolSet, ...]:
    """The sets that always exist, and one for each service with tools. `titles`: provider -> its name on pages."""
    names = [spec.name for spec in specs]
    services = dict.fromkeys(spec.provider for spec in specs if spec.provider is not None)
    chosen = {spec.provider for spec in specs if spec.name in _EVERYDAY}
    others = {spec.name for spec in specs if spec.provider not in {*chosen, None} and spec.effect != "delete"}
    return (
        ToolSet(EVERYTHING, "All tools", frozenset(names)),
        ToolSet(EVERYDAY, "Everyday tools", frozenset(_EVERYDAY) & frozenset(names) | others),
        ToolSet(READ_ONLY, "Tools that only read", frozenset(spec.name for spec in specs if spec.read_only)),
        *(
            ToolSet(service, titles.get(service, service), frozenset(s.name for s in specs if s.provider == service))
            for service in services
        ),
    )


def matching_names(pattern: str, names: Iterable[str]) -> frozenset[str]:
    """The names that match a pattern like `slack_*`."""
    return frozenset(name for name in names if fnmatchcase(name, pattern))


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """What the operator offers: the sets and, for each client, its set and the maximum length of its list. A person can
    choose a set for each of their agents; the agent then has only the tools that are in both.
    """

    sets: Mapping[str, ToolSet]
    index: ToolIndex = field(repr=False)
    profile: str
    list_limit: int  # tools in a list; 0: no limit
    profiles: Mapping[str, str]  # by client id
    list_limits: Mapping[str, int]
    hidden: Mapping[str, frozenset[str]]  # by client id: what the operator removed for it
    _having: Mapping[str, frozenset[str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        having: dict[str, set[str]] = {}
        for one in self.sets.values():
            for tool in one.tools:
                having.setdefault(tool, set()).add(one.name)
        object.__setattr__(self, "_having", {tool: frozenset(names) for tool, names in having.items()})

    def set_of(self, client_id: str) -> ToolSet:
        """The operator's set for this client."""
        return self.sets[self.profiles.get(client_id, self.profile)]

    def is_long(self, client_id: str, names: Collection[str]) -> bool:
        """Whether this many tools, and `connections`, are more than the operator wants in this client's list."""
        limit = self.list_limits.get(client_id, self.list_limit)
        return 0 < limit < len(names) + 1

    def with_tool(self, name: str) -> frozenset[str]:
        """The names of the sets that have this tool."""
        return self._having.get(name, frozenset())

    def names_for(self, client_id: str, *, chosen: str | None = None) -> frozenset[str]:
        """The tools of this client if its person chose that set; none if the operator has removed the set."""
        names = self.set_of(client_id).tools - self.hidden.get(client_id, frozenset())
        if chosen is None:
            return names
        return names & self.sets[chosen].tools if chosen in self.sets else frozenset()
