"""The operator's rules about what people must approve each time, as vault policies.

The settings name tools and scopes; the vault knows scopes, and tools by name only. People's own choices are in their
delegations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from providers.definitions.catalog import Catalog
from providers.definitions.suggestions import did_you_mean
from providers.tools.spec import ToolSpec
from server.runtime.late_names import LateName, note_or_refuse
from server.settings import Settings
from vault.exchange.approval_rules import TOOL
from vault.upstream import UpstreamPolicy

_NOTHING: frozenset[str] = frozenset()
_GROUPS: frozenset[str] = frozenset({"destructive", "all"})


@dataclass(frozen=True, slots=True)
class ApprovalRules:
    """By provider: what people must approve, the scopes of each tool, and which tools can have standing approvals."""

    ask: Mapping[str, frozenset[str]]
    tool_scopes: Mapping[str, Mapping[str, frozenset[str]]]
    writing_tools: Mapping[str, frozenset[str]]
    standing_tools: Mapping[str, frozenset[str]]

    @classmethod
    def from_settings(
        cls, settings: Settings, catalog: Catalog, tools: Sequence[ToolSpec], *, late: list[LateName] | None = None
    ) -> ApprovalRules:
        """The rules in the settings. Raises SettingsRefused for an unknown tool or scope; `late` collects tools."""
        by_name = {spec.name: spec for spec in tools}
        ask: dict[str, frozenset[str]] = {}
        for spec in tools:
            if spec.approval and spec.provider is not None:
                ask[spec.provider] = ask.get(spec.provider, _NOTHING) | {f"{TOOL}{spec.name}"}
        for entry in settings.approvals.ask:
            provider, _, scope = entry.partition(":")
            spec = by_name.get(entry)
            if spec is not None and spec.provider is not None:
                provider, wanted = spec.provider, f"{TOOL}{entry}"
            elif (known := catalog.get(provider)) is not None and scope in known.scopes:
                provider, wanted = known.name, scope
            else:
                scopes_there = () if known is None else (f"{known.name}:{one}" for one in known.scopes)
                near = did_you_mean(entry, [*by_name, *scopes_there])
                problem = (
                    f"approvals.ask: no tool or scope {entry!r}.{near} Use a name from `token-vault tools "
                    "list`, or provider:scope from `token-vault providers show`"
                )
                note_or_refuse(late, "approvals.ask", entry, problem)
                continue
            ask[provider] = ask.get(provider, _NOTHING) | {wanted}
        scopes: dict[str, dict[str, frozenset[str]]] = {}
        for spec in tools:
            if spec.provider is not None:
                scopes.setdefault(spec.provider, {})[spec.name] = spec.scopes
        writing = {
            provider: frozenset(spec.name for spec in tools if spec.provider == provider and not spec.read_only)
            for provider in scopes
        }
        return cls(ask, scopes, writing, _standing_tools(settings.approvals.no_standing, tools, late))

    def apply(self, policy: UpstreamPolicy) -> UpstreamPolicy:
        """The policy with these rules."""
        return replace(
            policy,
            ask=self.ask.get(policy.provider, _NOTHING),
            tool_scopes=self.tool_scopes.get(policy.provider, {}),
            writing_tools=self.writing_tools.get(policy.provider, _NOTHING),
            standing_tools=self.standing_tools.get(policy.provider, _NOTHING),
        )


def _standing_tools(
    forbidden: Sequence[str], tools: Sequence[ToolSpec], late: list[LateName] | None
) -> Mapping[str, frozenset[str]]:
    """By provider: the tools that may have a standing approval. Raises SettingsRefused for an unknown name."""
    names = {spec.name for spec in tools}
    for entry in forbidden:
        if entry not in names | _GROUPS:
            near = did_you_mean(entry, [*names, *_GROUPS])
            problem = (
                f"approvals.no_standing: no tool {entry!r}.{near} Use a name from `token-vault tools list`, "
                "`destructive`, or `all`"
            )
            note_or_refuse(late, "approvals.no_standing", entry, problem)
    found: dict[str, frozenset[str]] = {}
    for spec in tools:
        is_forbidden = spec.name in forbidden or "all" in forbidden or (spec.destructive and "destructive" in forbidden)
        if spec.provider is not None and not is_forbidden:
            found[spec.provider] = found.get(spec.provider, _NOTHING) | {spec.name}
    return found
