"""Adds an external MCP server to the vault, reviews its tools, and removes it.

Adding a server queries its authorization metadata. No tool can be called before an operator has accepted it in the form
that they reviewed.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import SplitResult, urlsplit

from providers.definitions.remote import RemoteCredential, RemoteProgram
from providers.outbound.addresses import is_loopback_host, url_problem
from providers.outbound.json_values import is_object, parse_object
from providers.remote.authorization import (
    AuthorizationUnknown,
    ClientAuth,
    FoundAuthorization,
    RemoteRegistration,
    check_without_oauth,
    find_authorization,
    register,
)
from providers.remote.tool_descriptions import problem_of
from providers.tools.sets import matching_names
from server.administration.actor import Actor, ChangeRefused
from server.administration.registrations import check_nothing_left
from server.connecting.provider_authorization import callback_url
from server.deployment import Deployment
from server.live_providers import REFUSALS
from server.remote.registration_renewal import end_client, entered_of, registration_there
from server.runtime.catalog import names_of_tools
from server.runtime.late_names import names_in
from vault import registrations
from vault.approvals import approvals, standing_approvals
from vault.audit import audit
from vault.mcp import servers
from vault.mcp.servers import Acceptance, McpServer, McpTool
from vault.scopes import NOTHING
from vault.upkeep import panics, revocations

_LONGEST_TITLE: Final = 60
PROGRAM: Final = "program:"
_USUAL_KEY: Final = "Authorization: Bearer"
_HEADER: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,60}(?<!-)")
_SCHEME: Final = re.compile(r"([A-Za-z-]{1,20})?")  # anything else might be a key that was entered here
_OURS: Final = frozenset(
    {"accept", "connection", "content-length", "content-type", "cookie", "host", "last-event-id", "transfer-encoding"}
    | {"mcp-session-id", "mcp-protocol-version", "mcp-method", "mcp-name"}
)


@dataclass(frozen=True, slots=True)
class EnteredClient:
    """A client that the operator registered at the authorization server."""

    client_id: str
    client_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class NewServer:
    """A server to add. Without `client`, the vault gets a client ID itself. `key`: how to call it without OAuth.

    For a server that the vault runs itself, `url` is `program:` and its name in the settings.
    """

    name: str
    url: str
    title: str = ""
    client: EnteredClient | None = None
    issuer: str | None = None  # trusted for this server, even if it is on another host
    key: RemoteCredential | None = None

    @property
    def program(self) -> str | None:
        """Its name in the settings, if the vault runs it."""
        return self.url.removeprefix(PROGRAM) if self.url.startswith(PROGRAM) else None


@dataclass(frozen=True, slots=True)
class ToolChange:
    """One tool to review: its state (`left`: left out before), and its differences from what was accepted, by line.

    `decision`: the earlier decision, which stays unless the operator names the tool; empty if the arguments changed.
    """

    name: str
    state: str
    problem: str
    decision: str
    differences: tuple[str, ...]


def document_url(deployment: Deployment, name: str) -> str:
    """The address of the vault's client ID metadata document for one server."""
    return deployment.url(f"/connect/client/{name}")


async def server_named(deployment: Deployment, name: str) -> McpServer:
    """The server. Raises ChangeRefused."""
    found = await servers.get_server(deployment.database, name)
    if found is None:
        raise _no_server(name)
    return found


async def add(actor: Actor, wanted: NewServer, *, is_disabled: bool = False) -> McpServer:
    """Find out how the server authorizes, register the vault there, and store both. Raises ChangeRefused."""
    deployment, now = actor.deployment, actor.deployment.now()
    _check_name(deployment, wanted.name)
    program = wanted.program
    if program is None:
        _check_url(deployment, wanted.url)
    else:
        await _check_program(deployment, wanted, program)
    title = title_of(wanted)
    try:
        facts, client, issuer = await _authorization(deployment, wanted)
    except AuthorizationUnknown as unknown:
        raise _server_refusal(f"{wanted.url} can't be added to this vault: {unknown}.") from unknown
    entered = entered_of(client)
    server = McpServer(wanted.name, wanted.url, title, facts, now)
    try:
        await deployment.live.check(wanted.name, replace(entered, server=server))
    except REFUSALS as refusal:
        raise _server_refusal(str(refusal)) from refusal
    by = "" if actor.user is None else actor.user.id
    async with actor.change() as transaction:
        await check_nothing_left(deployment, transaction, wanted.name)
        is_new = await servers.add_server(
            transaction, wanted.name, url=wanted.url, title=title, facts=facts, by=by, now=now
        )
        kept = await registrations.save_registration(
            transaction, deployment.keys, entered, provider=wanted.name, by=by, now=now
        )
        if not is_new or kept is None:
            raise _server_refusal(f"An MCP server {wanted.name} already exists.")
        events = [actor.event("mcp_server.added", provider=wanted.name, url=wanted.url, issuer=issuer)]
        if is_disabled:
            await servers.set_disabled(transaction, wanted.name, is_disabled=True)
            events.append(actor.event("mcp_server.disabled", provider=wanted.name))
        await audit.append(transaction, *events, now=now)
    await deployment.live.refresh(deployment.database, deployment.keys)
    return replace(server, is_disabled=is_disabled)


async def _authorization(
    deployment: Deployment, wanted: NewServer
) -> tuple[Mapping[str, object], RemoteRegistration, str]:
    """How the server is called, who we are there, and its authorization server. Raises AuthorizationUnknown."""
    http = deployment.http
    if wanted.program is not None:
        return RemoteProgram(wanted.program).facts(), RemoteRegistration("entered"), ""
    if wanted.key is not None:
        await check_without_oauth(wanted.url, wanted.key, http, policy=http.policy)
        return wanted.key.facts(), RemoteRegistration("entered"), ""
    found = await find_authorization(wanted.url, http, policy=http.policy, issuer=wanted.issuer)
    client = (
        await _client_at(deployment, found, wanted.name)
        if wanted.client is None
        else _registration_of(found, wanted.client)
    )
    return replace(found.facts, client_auth=client.client_auth).facts(), client, found.issuer


def _registration_of(found: FoundAuthorization, client: EnteredClient) -> RemoteRegistration:
    """The client, with a way to authenticate that its server accepts. Raises AuthorizationUnknown."""
    is_public = client.client_secret is None
    fitting: list[ClientAuth] = [one for one in found.methods if (one == "none") is is_public]
    if not fitting and is_public and found.may_be_public:
        return RemoteRegistration(client.client_id)
    if not fitting and is_public:
        raise AuthorizationUnknown(f"its authorization server {found.issuer} doesn't accept clients without a secret")
    if not fitting:
        raise AuthorizationUnknown(f"its authorization server {found.issuer} doesn't accept client secrets")
    return RemoteRegistration(client.client_id, client.client_secret, fitting[0])


def title_of(wanted: NewServer) -> str:
    """The name that people are shown."""
    return wanted.title.strip()[:_LONGEST_TITLE] or wanted.name.capitalize()


def key_of(kind: str, header: str) -> RemoteCredential | None:
    """How to call a server without OAuth: `kind` is `open`, or `key` with its header, `NAME` or `NAME: SCHEME`.

    None for `oauth`. Raises ChangeRefused, whose text doesn't repeat the entered header, since it may be a key.
    """
    if kind != "key" and header.strip():
        raise _server_refusal("Name a header only for a server that takes a key.", field="key_header")
    if kind not in {"open", "key"}:
        return None
    name, _, scheme = ("" if kind == "open" else header.strip() or _USUAL_KEY).partition(":")
    if kind == "key" and not (
        _HEADER.fullmatch(name) and _SCHEME.fullmatch(scheme.strip()) and name.lower() not in _OURS
    ):
        raise _server_refusal(
            f"Name a header for the key, such as {_USUAL_KEY}. Don't enter a key: each person enters their own.",
            field="key_header",
        )
    return RemoteCredential(name, scheme.strip())


async def _client_at(deployment: Deployment, found: FoundAuthorization, name: str) -> RemoteRegistration:
    """Our client: a metadata document if both sides support that, otherwise registered. Raises AuthorizationUnknown."""
    redirect = callback_url(deployment, name)
    if found.takes_documents and found.may_be_public and _is_public(deployment):
        return RemoteRegistration(document_url(deployment, name))
    if found.registration_url is not None:
        return await register(found, redirect, deployment.http, policy=deployment.http.policy)
    raise AuthorizationUnknown(
        f"its authorization server {found.issuer} doesn't let clients register themselves; register one there with "
        f"the redirect URI {redirect}, and add the server with its client ID (--client-id)"
    )


def _is_public(deployment: Deployment) -> bool:
    parts = urlsplit(deployment.public_url)
    return parts.scheme == "https" and not is_loopback_host(parts.hostname or "")


def _check_name(deployment: Deployment, name: str) -> None:
    if deployment.catalog.get(name) is not None:
        raise _server_refusal(
            f"{name}: a provider has this name; choose another one, such as {name}-mcp.", field="name"
        )
    if name in deployment.offer.sets:
        raise _server_refusal(f"{name}: a tool set has this name; choose another one.", field="name")
    prefix = f"{name.replace('-', '_')}_"
    others = [f"{one.replace('-', '_')}_" for one in deployment.catalog.remote]
    names = [*others, *(spec.name for spec in deployment.tools)]
    if any(one.startswith(prefix) for one in names) or any(prefix.startswith(one) for one in others):
        raise _server_refusal(f"{name}: other tools begin with {prefix}; choose another name.", field="name")


async def _check_program(deployment: Deployment, wanted: NewServer, program: str) -> None:
    """Check that the settings name the program, and that it can run here. Raises ChangeRefused."""
    if wanted.client is not None or wanted.issuer is not None or (wanted.key is not None and not wanted.key.is_open):
        raise _server_refusal("A program has no sign-in or key of its own: leave those out.", field="url")
    hosted, known = deployment.hosted, deployment.settings.local_servers
    if hosted is None or program not in known:
        names = ", ".join(sorted(known)) or "none"
        raise _server_refusal(
            f"The settings have no [local_servers.{program[:32]}]; they have: {names}. Only the settings file decides "
            "what the vault runs.",
            field="url",
        )
    if (problem := await hosted.problem() or hosted.setting_problem(program)) is not None:
        raise _server_refusal(
            f"{program} can't be run here: {problem.sentence}. To fix this: {problem.fix}.", field="url"
        )


def _check_url(deployment: Deployment, url: str) -> None:
    problem = url_problem(url, deployment.http.policy)
    parts = urlsplit(url)
    if problem is None and (parts.query or parts.fragment):
        problem = "has a query or fragment"
    own = urlsplit(deployment.public_url)
    if problem is None and _origin_of(parts) == _origin_of(own) and parts.path.startswith(f"{own.path.rstrip('/')}/"):
        problem = "is this vault"
    if problem is not None:
        raise _server_refusal(f"{url}: {problem}; use the https address of the MCP server.", field="url")


def _origin_of(parts: SplitResult) -> tuple[str, str, int | None]:
    """The origin in normalized form: `urlsplit` writes scheme and host name in lower case."""
    return parts.scheme, parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme)


async def remove(actor: Actor, name: str) -> None:
    """Remove a server to which no account is connected anymore. Raises ChangeRefused."""
    deployment, now = actor.deployment, actor.deployment.now()
    server = await server_named(deployment, name)
    check_no_rule(deployment, name)
    stored = await registrations.get_registration(deployment.database, name)
    client = None if stored is None else await registration_there(deployment, server, stored)
    async with actor.change() as transaction:
        await servers.hold(transaction, name)
        await check_nothing_left(deployment, transaction, name)
        await servers.remove_server(transaction, name)
        if stored is not None and not await registrations.remove_registration(transaction, deployment.keys, stored):
            said = f"The registration at {name} has just been renewed or changed. Try again."
            raise ChangeRefused("registration_changed", said, kind="conflict")
        await audit.append(transaction, actor.event("mcp_server.removed", provider=name), now=now)
    await deployment.live.refresh(deployment.database, deployment.keys)
    deployment.live.sightings.forget(name)
    if client is not None:
        await end_client(deployment, client)


async def set_disabled(actor: Actor, name: str, *, is_disabled: bool) -> None:
    """Stop offering a server's tools, or offer the accepted ones again; accounts and permissions stay.

    Raises ChangeRefused.
    """
    deployment, now = actor.deployment, actor.deployment.now()
    async with actor.change() as transaction:
        known = await servers.hold(transaction, name)
        if known is None:
            raise _no_server(name)
        if known.is_disabled is is_disabled:
            return
        await servers.set_disabled(transaction, name, is_disabled=is_disabled)
        kind = "mcp_server.disabled" if is_disabled else "mcp_server.enabled"
        await audit.append(transaction, actor.event(kind, provider=name), now=now)
    await deployment.live.refresh(deployment.database, deployment.keys)


async def disconnect_all(actor: Actor, name: str) -> int:
    """Disconnect and revoke every account at a server, with receipts. Returns how many. Raises ChangeRefused."""
    deployment = actor.deployment
    await server_named(deployment, name)
    by = "command_line" if actor.user is None else actor.user.name
    async with actor.change() as transaction:
        started = await panics.start(transaction, "provider", name, by=by, now=deployment.now())
    ended = await panics.go_on(deployment.vault, started)
    await revocations.run_due(deployment.vault)
    return ended


def check_no_rule(deployment: Deployment, name: str) -> None:
    """Check that no rule or setting names its tools: a rule would make all rules unusable, a setting stop the start.

    Raises ChangeRefused.
    """
    prefix = f"{name.replace('-', '_')}_"
    for rules in deployment.rule_sets:
        for rule in rules.rules:
            if any(one.startswith(prefix) for one in rule.actions or ()):
                raise ChangeRefused(
                    "named_by_rule",
                    f"The rule {rule.name} names a tool of {name}. Change the rule first.",
                    kind="conflict",
                )
    left = [spec.name for spec in deployment.tools if spec.provider != name]
    left += [one for one in deployment.offer.sets if one != name]
    for one in names_in(deployment.settings):
        if one.may_be_of(name) and not matching_names(one.name, left):
            raise ChangeRefused(
                "named_by_setting",
                f"The setting {one.setting} names {one.name}. Remove it there first.",
                kind="conflict",
            )


def changes_of(server: McpServer) -> Sequence[ToolChange]:
    """The tools that an operator must review, by name."""
    return [
        ToolChange(one.name, shown_state(one), problem_of(one.seen), _decision(one), tuple(_differences(one)))
        for one in server.tools
        if one.state != "accepted" and not is_settled(one)
    ]


def is_settled(tool: McpTool) -> bool:
    """Whether the tool needs no review: it is gone, and that was reviewed or the tool was left out."""
    return tool.is_absent and (tool.is_retired or (tool.is_left and tool.accepted is None))


def shown_state(tool: McpTool) -> str:
    """Its state for the reviewer: `left` if they reviewed this form and left it out."""
    return "left" if tool.is_left and not tool.is_absent else tool.state


def _decision(tool: McpTool) -> str:
    if not has_same_arguments(tool):
        return ""
    return f"{tool.effect}, {'asks each time' if tool.asks else 'no approval'}"


def _differences(tool: McpTool) -> Iterator[str]:
    before = [] if tool.accepted is None else _lines(tool.accepted)
    after = [] if tool.is_absent else _lines(tool.seen)
    yield from list(difflib.unified_diff(before, after, "accepted", "offered now", lineterm="", n=2))[2:]


def _lines(definition: str) -> list[str]:
    """The definition's lines in ASCII, so that nothing in it is invisible or can control a terminal."""
    return json.dumps(json.loads(definition), indent=2).splitlines()


def claims_of(tool: McpTool) -> Mapping[str, bool]:
    """The server's claims about the tool's effect: `readOnlyHint`, `destructiveHint`. Untrusted."""
    annotations = (parse_object(tool.seen.encode()) or {}).get("annotations")
    if not is_object(annotations):
        return {}
    return {name: value for name, value in annotations.items() if isinstance(value, bool)}


@dataclass(frozen=True, slots=True)
class ReviewDecision:
    """What an operator accepts: the tools in `names`, or all new and changed tools, while absent ones are forgotten.

    `digest` identifies what was reviewed. Tools in `leaves` are left out until they change. By default, a tool counts
    as one that can delete and needs approval each time. Exceptions: tools in `reads` only read, `trusts` believes the
    server's claims about effects, and tools in `unasked` need no approval. A changed tool keeps the earlier decision
    unless its arguments changed or one of these sets names it.
    """

    digest: str
    names: Collection[str] | None = None
    leaves: Collection[str] = NOTHING
    reads: Collection[str] = NOTHING
    unasked: Collection[str] = NOTHING
    trusts: bool = False
    forgets: bool = False  # forget absent tools even if there are `names`

    @property
    def decided_names(self) -> frozenset[str]:
        """The tools about which the operator decides again."""
        return frozenset({*(self.names or ()), *self.reads, *self.unasked})


def decision_of(digest: str, choices: Mapping[str, str], *, forgets: bool) -> ReviewDecision:
    """The decision from an admin's choices: `read`, `write` without approval, `ask` each time, or `leave` out."""
    chosen = {wanted: [name for name, one in choices.items() if one == wanted] for wanted in ("read", "write", "leave")}
    names = [name for name, one in choices.items() if one != "leave"]
    return ReviewDecision(
        digest, names, chosen["leave"], reads=chosen["read"], unasked=chosen["write"], forgets=forgets
    )


async def accept(actor: Actor, name: str, wanted: ReviewDecision) -> tuple[str, ...]:
    """Offer these tools to agents in the reviewed form. Returns the tools' names. Raises ChangeRefused."""
    deployment, now = actor.deployment, actor.deployment.now()
    server = await server_named(deployment, name)
    if wanted.digest != server.digest:
        raise _change_refusal(name)
    unknown = {*wanted.decided_names, *wanted.leaves} - {one.name for one in server.tools}
    if unknown:
        raise _server_refusal(
            f"{name} offers no tool {min(unknown)!r}. See token-vault mcp review {name}", field="tools"
        )
    if named := [one.name for one in server.tools if one.name in wanted.leaves and one.state == "accepted"]:
        raise _server_refusal(f"{named[0]} is accepted already; disable the server instead.", field="tools")
    chosen = {
        one.name: _acceptance(one, wanted)
        for one in server.tools
        if (_is_waiting(one) if wanted.names is None else one.name in wanted.names)
        and one.name not in wanted.leaves
        and not one.is_absent
        and not problem_of(one.seen)
    }
    if left := set(wanted.names or ()) - chosen.keys():
        raise _server_refusal(f"{min(left)} can't be used. See token-vault mcp review {name}", field="tools")
    if left := wanted.decided_names - chosen.keys():
        raise _server_refusal(f"{min(left)} isn't among these tools; name it with --tool, too.", field="tools")
    absent = [one.name for one in server.tools if one.is_absent and not is_settled(one)]
    absent = absent if wanted.names is None or wanted.forgets else []
    by = "" if actor.user is None else actor.user.id
    async with actor.change() as transaction:
        held = await servers.hold(transaction, name)
        if (
            held is None
            or held.digest != wanted.digest
            or await servers.accept(transaction, server, chosen, by=by, now=now)
        ):
            raise _change_refusal(name)
        names = names_of_tools(held, accepting=chosen)
        await servers.give_names(transaction, held, names)
        for one in held.tools:
            if one.name in chosen and one.accepted not in {None, one.seen}:  # people approved the earlier form
                tool = f"{name.replace('-', '_')}_{names[one.name]}"
                await approvals.withdraw_calls(transaction, tool, now=now)
                await standing_approvals.revoke_of_tool(transaction, tool, now=now)
        await servers.forget(transaction, server, absent)
        await servers.leave(transaction, server, wanted.leaves)
        for kind, decided in (("accepted", chosen), ("left", wanted.leaves)):
            if decided or kind == "accepted":
                tools = sorted(decided)[:20]
                event = actor.event(f"mcp_server.tools_{kind}", provider=name, count=len(decided), tools=tools)
                await audit.append(transaction, event, now=now)
    await deployment.live.refresh(deployment.database, deployment.keys)
    return tuple(sorted(chosen))


def _is_waiting(tool: McpTool) -> bool:
    return tool.state != "accepted" and not tool.is_left


def _acceptance(tool: McpTool, wanted: ReviewDecision) -> Acceptance:
    if tool.name not in wanted.decided_names and has_same_arguments(tool):
        return Acceptance(tool.effect, asks=tool.asks, reviewed=tool.seen)
    claims = claims_of(tool) if wanted.trusts else dict[str, bool]()
    if tool.name in wanted.reads or claims.get("readOnlyHint") is True:
        effect = "read"
    elif claims.get("destructiveHint") is False:
        effect = "create"
    else:
        effect = "delete"
    return Acceptance(effect, asks=effect != "read" and tool.name not in wanted.unasked, reviewed=tool.seen)


def has_same_arguments(tool: McpTool) -> bool:
    """Whether the tool was accepted before with the same arguments, so that the earlier decision applies."""
    before = None if tool.accepted is None else parse_object(tool.accepted.encode())
    after = parse_object(tool.seen.encode())
    return before is not None and after is not None and is_same(before.get("inputSchema"), after.get("inputSchema"))


def is_same(before: object, after: object) -> bool:
    """Whether two values are the same JSON; in Python, `True == 1`."""
    return json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)


def state_of(deployment: Deployment, server: McpServer) -> dict[str, object]:
    """A server's entry in lists: its tools by state, and whether it works."""
    left = [one.name for one in server.tools if one.is_left and not one.is_absent]
    states = [one.state for one in server.tools if one.name not in left and not is_settled(one)]
    return {
        "name": server.name,
        "url": server.url,
        "title": server.title,
        "usable": states.count("accepted"),
        "held": states.count("new") + states.count("changed") + states.count("returned"),
        "absent": states.count("absent"),
        "left": len(left),
        "disabled": server.is_disabled,
        "problem": deployment.live.current.unusable.get(server.name, ""),
    }


def connect_url(deployment: Deployment, name: str) -> str:
    """The page where a person connects their account."""
    return deployment.url(f"/connections/connect?provider={name}")


def _change_refusal(name: str) -> ChangeRefused:
    return ChangeRefused(
        "changed_meanwhile",
        f"The tools of {name} changed since the review. Review them again: token-vault mcp review {name}",
        kind="changed_meanwhile",
    )


def _no_server(name: str) -> ChangeRefused:
    return ChangeRefused("no_server", f"There is no MCP server {name!r}. See token-vault mcp list", kind="not_found")


def _server_refusal(description: str, *, field: str = "") -> ChangeRefused:
    return ChangeRefused("server_refused", description, field=field)
