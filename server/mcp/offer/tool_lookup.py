"""The tools that an agent has: the person's set within the operator's offer. Answers `find_tools` and
`describe_tool`."""

from __future__ import annotations

from providers.tools.spec import ToolSpec
from server.deployment import Deployment
from server.mcp.offer import discovery
from server.mcp.offer.discovery import DescribeToolOutput, FindToolsInput, FindToolsOutput
from vault import tool_choices
from vault.records import Principal
from vault.refusals import ToolNotOffered


def refusal_of_operator(deployment: Deployment, spec: ToolSpec, *, client_id: str) -> ToolNotOffered | None:
    """Of a tool that is not in the operator's set for this client."""
    profile = deployment.offer.set_of(client_id)
    if spec.provider is None or spec.name in profile.tools:
        return None
    return ToolNotOffered(
        f"{spec.name} isn't in {profile.name}, the tool set of this agent. The operator of this vault can choose "
        "another one in tools.profile.",
        tool_set=profile.name,
    )


async def choice_of(deployment: Deployment, principal: Principal) -> str | None:
    """The name of the set that the person chose for this agent, if they did."""
    return await tool_choices.get_tool_set(deployment.database, principal.user_id, client_id=principal.client_id)


async def available(deployment: Deployment, principal: Principal) -> frozenset[str]:
    """The names of the tools that this person's agent currently has."""
    chosen = await choice_of(deployment, principal)
    return deployment.offer.names_for(principal.client_id, chosen=chosen)


async def find(deployment: Deployment, principal: Principal, wanted: FindToolsInput) -> FindToolsOutput:
    """Answer `find_tools`."""
    index, names = deployment.offer.index, await available(deployment, principal)
    specs = index.find(wanted.query, among=names, limit=wanted.limit)
    services = dict.fromkeys(spec.provider for spec in deployment.tools if spec.name in names)
    return discovery.findings(specs, titles=index.titles, services=[index.titles[one] for one in services if one])


async def describe(deployment: Deployment, principal: Principal, spec: ToolSpec) -> DescribeToolOutput:
    """Answer `describe_tool`. Raises ToolNotOffered."""
    if (hidden := refusal_of_operator(deployment, spec, client_id=principal.client_id)) is not None:
        raise hidden
    chosen = await choice_of(deployment, principal)
    if chosen is not None and spec.provider is not None and chosen not in deployment.offer.with_tool(spec.name):
        raise tool_choices.refusal(chosen)
    return discovery.description_of(spec, titles=deployment.offer.index.titles)
