"""Review an imported API and turn it on: it can't be called until an admin has accepted its tools."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from providers.outbound.json_values import is_array, is_object
from providers.tools.imported_api import ImportChoice, tables_of, with_choices
from providers.tools.openapi_import import InseparableTool, Table
from providers.tools.sets import matching_names
from server.administration.actor import Actor, ChangeRefused
from server.administration.registrations import check_nothing_left
from server.deployment import Deployment
from server.live_providers import REFUSALS
from server.remote.servers import is_same
from server.remote.tool_reviews import ReviewedPart, parts_of
from server.runtime.late_names import names_in
from vault.approvals import approvals, standing_approvals
from vault.audit import audit
from vault.mcp import imported_apis
from vault.mcp.imported_apis import ImportedApi
from vault.registrations import EnteredRegistration
from vault.storage.database import Transaction

_PLACE: Final = ("address", "audience")  # the same for all tools, so not shown again for new ones
_PARTS: Final = {
    name: name for name in ("title", "description", "request", "rule", "scopes", "effect", "arguments", "result")
}
_CHANGES: Final = {**{name: name for name in _PLACE}, **_PARTS}


@dataclass(frozen=True, slots=True)
class ImportedToolReview:
    """A tool to review. `choice`: what applies unless the admin decides otherwise.

    `state`: `new`, `changed`, or the earlier decision: `accepted`, or `left` for left out.
    """

    name: str
    state: str
    choice: ImportChoice
    parts: Sequence[ReviewedPart]
    problem: str = ""
    claims: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ApiReview:
    """An imported API for review by an admin. `gone`: accepted tools that it no longer has."""

    title: str
    addresses: Mapping[str, str]
    audience: str
    tools: Sequence[ImportedToolReview]
    gone: Sequence[str]


async def api_named(deployment: Deployment, name: str) -> ImportedApi:
    """The API. Raises ChangeRefused."""
    found = await imported_apis.get_api(deployment.database, name)
    if found is None:
        raise ChangeRefused("no_import", f"There is no imported API {name!r}.", kind="not_found")
    return found


async def offer(actor: Actor, name: str, content: str) -> bool:
    """Store an import (`providers.tools.imported_api.content_of`) for review, unless it was reviewed before.

    Returns whether it waits for an admin. Raises ChangeRefused.
    """
    deployment, now = actor.deployment, actor.deployment.now()
    known = await imported_apis.get_api(deployment.database, name)
    if known is not None and known.reviewed == content:
        if known.offered is not None:
            await discard(actor, name, known.digest)
        return False
    _check_names(deployment, name, [str(one["name"]) for one in tables_of(content).tools])
    await _check(deployment, name, content)
    async with actor.change() as transaction:
        by = "" if actor.user is None else actor.user.id
        await imported_apis.offer(transaction, name, content, by=by, now=now)
        await audit.append(transaction, actor.event("api.imported", provider=name), now=now)
    return True


def review_of(api: ImportedApi) -> ApiReview:
    """The waiting import, or else the accepted one, tool by tool."""
    tables, before, known = tables_of(api.whole), _tools_by_name(api.accepted), _tools_by_name(api.reviewed)
    tools = [
        _review(name, one, before.get(name), decided=known.get(name)) for name, one in _tools_by_name(api.whole).items()
    ]
    provider, addresses = tables.provider, tables.provider.get("apis")
    return ApiReview(
        str(provider.get("title", api.name)),
        {name: str(url) for name, url in addresses.items()} if is_object(addresses) else {},
        str(provider.get("audience", "")),
        tools,
        sorted(before.keys() - {one.name for one in tools}),
    )


def _tools_by_name(content: str | None) -> Mapping[str, Table]:
    """Each tool with its rule and the address for its calls, by name."""
    if content is None:
        return {}
    tables = tables_of(content)
    addresses = tables.provider.get("apis")
    address = "\n".join(str(url) for url in addresses.values()) if is_object(addresses) else ""
    place = dict(zip(_PLACE, (address, str(tables.provider.get("audience", ""))), strict=True))
    return {
        str(tool["name"]): {**tool, "rule": rule, **place}
        for tool, rule in zip(tables.tools, tables.rules, strict=True)
    }


def state_of(deployment: Deployment, api: ImportedApi) -> Mapping[str, object]:
    """An API's state in figures. `waiting`: tools that a new import adds, changes, or removes."""
    review, is_on = review_of(api), api.accepted is not None
    states = [one.state for one in review.tools]
    waiting = sum(one in {"new", "changed"} for one in states) + len(review.gone)
    return {
        "name": api.name,
        "title": review.title,
        "address": next(iter(review.addresses.values()), ""),
        "audience": review.audience,
        "usable": len(_tools_by_name(api.accepted)),
        "is_waiting": api.offered is not None,
        "waiting": waiting if api.offered is not None else 0,
        "left": states.count("left"),
        "problem": deployment.live.current.unusable.get(api.name, "") if is_on else "",
    }


def decisions_of(api: ImportedApi) -> Mapping[str, ImportChoice]:
    """The decision about each tool."""
    left: dict[str, ImportChoice] = dict.fromkeys(_tools_by_name(api.reviewed), "leave")
    return {
        **left,
        **{n: "ask" if one.get("approval") else "accept" for n, one in _tools_by_name(api.accepted).items()},
    }


def import_digest(content: str) -> str:
    """The digest that identifies a whole import in every vault."""
    return hashlib.sha256(content.encode()).hexdigest()


def _review(name: str, tool: Table, before: Table | None, *, decided: Table | None) -> ImportedToolReview:
    if before is None and decided is not None:
        if _differs(tool, decided):
            return ImportedToolReview(name, "changed", "leave", parts_of(_for_page(decided), _for_page(tool), _CHANGES))
        return ImportedToolReview(name, "left", "leave", parts_of(None, _for_page(tool), _PARTS))
    if before is None:
        return ImportedToolReview(
            name, "new", "ask" if tool.get("approval") else "accept", parts_of(None, _for_page(tool), _PARTS)
        )
    is_kept = not _differs(tool, before)
    asks = bool(before.get("approval")) or (bool(tool.get("approval")) and not is_kept)
    shown = _for_page(tool)
    parts = parts_of(None, shown, _PARTS) if is_kept else parts_of(_for_page(before), shown, _CHANGES)
    return ImportedToolReview(name, "accepted" if is_kept else "changed", "ask" if asks else "accept", parts)


def _for_page(tool: Table) -> Table:
    """The tool with one scope a line."""
    scopes = tool.get("scopes")
    return {**tool, "scopes": "\n".join(map(str, scopes))} if is_array(scopes) else tool


def _differs(tool: Table, before: Table) -> bool:
    """Whether a tool differs in anything other than approval, which the admin decided."""
    return not is_same({**tool, "approval": None}, {**before, "approval": None})


async def decide(actor: Actor, name: str, digest: str, choices: Mapping[str, ImportChoice]) -> int:
    """Turn on what was reviewed; tools without a choice as the review proposes. Returns how many.

    Raises ChangeRefused.
    """
    api = await api_named(actor.deployment, name)
    review = await asyncio.to_thread(review_of, api)
    proposed: dict[str, ImportChoice] = {one.name: one.choice for one in review.tools}
    if unknown := sorted(choices.keys() - proposed.keys()):
        raise _import_refusal(f"{name} has no tool {unknown[0]}.")
    return await accept(actor, name, digest, {**proposed, **choices})


async def decide_reviewed(actor: Actor, name: str, reviewed: str, choices: Mapping[str, ImportChoice]) -> int:
    """Like `decide`, if `import_digest` of the import is `reviewed`. Otherwise raises ChangeRefused."""
    api = await api_named(actor.deployment, name)
    if import_digest(api.whole) != reviewed:
        raise _stale()
    return await decide(actor, name, api.digest, choices)


def chosen_of(deployment: Deployment, api: ImportedApi, choices: Mapping[str, ImportChoice]) -> str:
    """The import as these choices turn it on; a tool without a choice is left out. Raises ChangeRefused."""
    try:
        content = with_choices(api.whole, choices)
    except InseparableTool as one:
        raise _import_refusal(
            f"The rule of {one.name} also allows what you left out. Leave that tool out, too."
        ) from one
    after = _tools_by_name(content)
    if not after:
        if api.offered is None:
            raise _import_refusal(f"No tool of {api.name} is left. Remove the API instead.")
        raise _import_refusal(f"No tool of {api.name} is left. Discard the import instead.")
    _check_not_named(deployment, _tools_by_name(api.accepted).keys() - after.keys())
    return content


async def accept(actor: Actor, name: str, digest: str, choices: Mapping[str, ImportChoice]) -> int:
    """Turn on the waiting import, or change the decisions about the current one, as reviewed and chosen.

    A tool without a choice is left out. Returns the number of tools. Raises ChangeRefused.
    """
    deployment, now = actor.deployment, actor.deployment.now()
    api = await api_named(deployment, name)
    if api.digest != digest:
        raise _stale()
    content = chosen_of(deployment, api, choices)
    before, after = _tools_by_name(api.accepted), _tools_by_name(content)
    await _check(deployment, name, content)
    changed = [one for one, tool in before.items() if one not in after or _differs(after[one], tool)]
    async with actor.change() as transaction:
        by = "" if actor.user is None else actor.user.id
        if not await imported_apis.accept(transaction, api, content, by=by, now=now):
            raise _stale()
        await _withdraw_approvals(transaction, changed, now=now)
        event = actor.event("api.import_accepted", provider=name, count=len(after), tools=sorted(after)[:20])
        await audit.append(transaction, event, now=now)
    await deployment.live.refresh(deployment.database, deployment.keys)
    return len(after)


async def discard(actor: Actor, name: str, digest: str) -> None:
    """Discard the waiting import; tools accepted before stay on. Raises ChangeRefused."""
    now, api = actor.deployment.now(), await api_named(actor.deployment, name)
    async with actor.change() as transaction:
        if api.digest != digest or not await imported_apis.discard(transaction, api):
            raise _stale()
        await audit.append(transaction, actor.event("api.import_discarded", provider=name), now=now)


async def remove(actor: Actor, name: str) -> None:
    """Turn off and forget an API to which no account is connected anymore. Raises ChangeRefused."""
    deployment, now = actor.deployment, actor.deployment.now()
    gone = check_removal(deployment, await api_named(deployment, name))
    async with actor.change() as transaction:
        await check_nothing_left(deployment, transaction, name)
        await imported_apis.remove(transaction, name)
        await _withdraw_approvals(transaction, gone, now=now)
        await audit.append(transaction, actor.event("api.import_removed", provider=name), now=now)
    await deployment.live.refresh(deployment.database, deployment.keys)


def check_removal(deployment: Deployment, api: ImportedApi) -> Collection[str]:
    """Check that no rule or setting names the API or one of its tools. Returns the tools. Raises ChangeRefused."""
    if api.name in deployment.settings.providers:
        description = f"The setting providers.{api.name} is about this API. Remove it there first."
        raise ChangeRefused("named_by_setting", description, kind="conflict")
    gone = _tools_by_name(api.accepted).keys()
    _check_not_named(deployment, gone)
    return gone


async def _withdraw_approvals(transaction: Transaction, tools: Collection[str], *, now: int) -> None:
    """Withdraw approvals of these tools, since people approved what the tools did before."""
    for tool in tools:
        await approvals.withdraw_calls(transaction, tool, now=now)
        await standing_approvals.revoke_of_tool(transaction, tool, now=now)


async def _check(deployment: Deployment, name: str, content: str) -> None:
    try:
        await deployment.live.check(name, EnteredRegistration("", imported=content))
    except REFUSALS as refusal:
        raise _import_refusal(str(refusal)) from refusal


def _check_names(deployment: Deployment, name: str, tools: Sequence[str]) -> None:
    """Check for conflicts with MCP servers, whose tools all begin with the server's name. Raises ChangeRefused."""
    for other in deployment.catalog.remote:
        if any(one.startswith(f"{other.replace('-', '_')}_") for one in tools):
            raise _import_refusal(
                f"{name}: tools of the MCP server {other} begin with the same name; choose another name"
            )


def _check_not_named(deployment: Deployment, gone: Collection[str]) -> None:
    """Check that no rule or setting names these tools: a rule would make all rules unusable, a setting stop the start.

    Raises ChangeRefused.
    """
    for rules in deployment.rule_sets:
        for rule in rules.rules:
            if named := sorted(set(rule.actions or ()) & set(gone)):
                description = f"The rule {rule.name} names {named[0]}. Change the rule first."
                raise ChangeRefused("named_by_rule", description, kind="conflict")
    left = [spec.name for spec in deployment.tools if spec.name not in gone]
    for one in names_in(deployment.settings):
        if matching_names(one.name, sorted(gone)) and not matching_names(one.name, left):
            description = f"The setting {one.setting} names {one.name}. Remove it there first."
            raise ChangeRefused("named_by_setting", description, kind="conflict")


def _import_refusal(description: str) -> ChangeRefused:
    return ChangeRefused("import_refused", description)


def _stale() -> ChangeRefused:
    return ChangeRefused(
        "import_changed",
        "The pending import has changed since the review. Open the page again.",
        kind="changed_meanwhile",
    )
