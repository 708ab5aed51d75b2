"""The activity as sentences: who did what with which account, how a token was limited, and why something was refused.

All texts are in the catalog: `event.KIND` for what happened, `why.CODE` for why it failed, and `fix.CODE` for what to
do about it. They only contain names and numbers from the event itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote, urlencode

from markupsafe import Markup

from server.deployment import Deployment
from server.http import page_texts
from server.http.translations import translate
from server.portal import texts
from server.portal.access import access
from vault import clients, users
from vault.records import Connection, ConnectionState, Event, Narrowing, parse_scope

_MOST_SCOPES: Final = 6  # named in a sentence
_CALLS: Final = frozenset({"tool.called", "proxy.called", "token.exchanged", "handle.issued", "token.released"})
_IN_SENTENCE: Final = frozenset({"account", "provider", "items", "code", "scopes", "narrowing", "tool", "reason"})
# where the person can do something about a refusal, by its code
_AT_AGENT: Final = frozenset({"delegation_required", "account_required", "tool_not_offered"})
_AT_ACCOUNT: Final = frozenset({"ciphertext_rejected", "upstream_unauthorized"})
_AT_APPROVALS: Final = frozenset({"approval_required"})
_OF_REQUESTS: Final = {  # a client's request, which is about no tool
    "requested": "story.request_sent",
    "given": "story.request_approved",
    "refused": "story.request_denied",
    "consumed": "story.request_used",
}


@dataclass(frozen=True, slots=True)
class StoryRow:
    """What a page shows of one event, or of several in a row that say the same."""

    sequence: int
    at: int
    sentence: Markup
    kind: str
    outcome: str
    agent: str  # empty without one
    account: str
    provider: str  # its name in the catalog, for the logo
    provider_title: str = ""
    limit: str = ""  # how far the token went
    why: str = ""
    fix: str = ""
    fix_path: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    count: int = 1
    since: int = 0  # when the first of several happened
    person: tuple[str, str] | None = None  # whose it is, and their page: for administrators
    by: str = ""  # the administrator who did it, likewise
    is_named: bool = False  # the sentence names the person
    proof: str = ""  # where an administrator or auditor gets a proof of the event

    def is_like(self, other: StoryRow) -> bool:
        """Whether both read the same."""
        return (self.sentence, self.outcome, self.why, self.limit, self.person, self.by) == (
            other.sentence, other.outcome, other.why, other.limit, other.person, other.by,
        )  # fmt: skip


class Storyteller:
    """Describes the events of one person; `agents` and `accounts` are names by ID.

    With `people` (name and page by ID), it names each event's person for an administrator, and offers no fixes, which
    only that person can make.
    """

    def __init__(
        self,
        deployment: Deployment,
        *,
        agents: Mapping[str, str],
        accounts: Mapping[str, Connection],
        people: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        self._people = people
        self._deployment = deployment
        self._agents = agents
        self._accounts = accounts

    def rows(self, events: Iterable[Event]) -> list[StoryRow]:
        """Newest first; events in a row that say the same are one row."""
        found: list[StoryRow] = []
        for event in events:
            row = self.row(event)
            if found and found[-1].is_like(row):
                found[-1] = replace(found[-1], count=found[-1].count + 1, since=row.at)
            else:
                found.append(row)
        return found

    def row(self, event: Event) -> StoryRow:
        """One event."""
        code = _code(event)
        fix, fix_path = self._fix(event, code) if self._people is None else ("", "")
        is_told = self._people is not None
        return StoryRow(
            sequence=event.sequence,
            at=event.at,
            since=event.at,
            sentence=self.sentence(event),
            kind=event.kind,
            outcome=event.outcome,
            agent=self.agent(event),
            account=self._account(event),
            provider=self._provider(event),
            provider_title=self._provider_title(event),
            limit=self._limit(event),
            why=self._why(event, code),
            fix=fix,
            fix_path=fix_path,
            facts=tuple((name, shown) for name, shown in self._facts(event) if shown),
            person=(self._people or {}).get(event.user_id or "", (event.user_id or "", "")) if is_told else None,
            by=str(event.details.get("by", "")) if is_told else "",
            is_named="_of." in self._sentence_name(event),
            proof=f"/administration/activity/{event.sequence}/proof" if is_told else "",
        )

    def agent(self, event: Event) -> str:
        """The agent's name, its id where it is gone, or nothing."""
        return "" if event.client_id is None else self._agents.get(event.client_id) or event.client_id

    def sentence(self, event: Event) -> Markup:
        """What happened."""
        tool = str(event.details.get("tool", ""))
        items = event.details.get("items")
        spec = self._deployment.tool(tool) if tool else None
        provider = self._deployment.catalog.get(self._provider(event))
        values = {
            "agent": _name(self.agent(event)) or page_texts.markup("story.an_agent"),
            "account": _name(self._account(event)) or page_texts.markup("story.an_account"),
            "provider": provider.title
            if provider is not None
            else _name(self._provider(event)) or page_texts.markup("story.the_provider"),
            "tool": texts.tool_title(spec, tool) or page_texts.markup("story.a_tool"),
            "count": f"{items} " if isinstance(items, int) and not isinstance(items, bool) else "",
            "name": str(event.details.get("name", "")),
            "company": _name(self._company(event)),
        }
        told = spec.presentation.words_for(items) if spec is not None and event.outcome == "ok" else ""
        if event.kind == "tool.called" and told:
            return Markup.escape(translate(told)).format(**values)
        return page_texts.markup(self._sentence_name(event), person=self._person(event), **values)

    def _sentence_name(self, event: Event) -> str:
        """The text that tells this event, to the person or about them."""
        page, _, name = _sentence_name(event).partition(".")
        is_about = self._people is not None and name in page_texts.english().get(f"{page}_of", {})
        return f"{page}_of.{name}" if is_about else f"{page}.{name}"

    def _person(self, event: Event) -> Markup | str:
        """Whose it is, with a link to their page, for an administrator."""
        name, page = (self._people or {}).get(event.user_id or "", (event.user_id or "", ""))
        told = _name(name) or page_texts.markup("story.someone")
        return Markup('<a href="{}">{}</a>').format(page, told) if page else told

    def _company(self, event: Event) -> str:
        name = str(event.details.get("company", ""))
        trusted = self._deployment.settings.enterprise.get(name)
        return name.capitalize() if trusted is None else trusted.title_for(name)

    def _account(self, event: Event) -> str:
        found = self._accounts.get(event.connection_id or "")
        return str(event.details.get("account", "")) if found is None else found.nickname or found.label

    def _provider_title(self, event: Event) -> str:
        found = self._deployment.catalog.get(self._provider(event))
        return "" if found is None else found.title

    def _provider(self, event: Event) -> str:
        found = self._accounts.get(event.connection_id or "")
        if found is not None:
            return found.provider
        spec = self._deployment.tool(str(event.details.get("tool", "")))
        return str(event.details.get("provider", "") or (spec.provider if spec is not None else "") or "")

    def _limit(self, event: Event) -> str:
        if event.kind not in _CALLS or event.outcome != "ok":
            return ""
        narrowing, provider = event.details.get("narrowing"), self._deployment.catalog.get(self._provider(event))
        if provider is None or narrowing not in {one.value for one in Narrowing}:
            return ""
        scopes = sorted(_scopes(event) - provider.always_granted)
        words = [texts.scope_title(provider, one) for one in scopes]
        shown = ", ".join(words[:_MOST_SCOPES]) + (" …" if len(words) > _MOST_SCOPES else "")
        if narrowing == Narrowing.FULL.value or not shown:
            return page_texts.text("story.full") if narrowing == Narrowing.FULL.value else ""
        name = "story.narrowed" if narrowing == Narrowing.UPSTREAM.value else "story.enforced"
        return page_texts.text(name, provider=provider.title, scopes=shown)

    def _why(self, event: Event, code: str) -> str:
        if not code:
            return ""
        known = page_texts.section("ended" if event.kind == "connection.upstream_revocation_failed" else "why")
        if self._people is not None:
            known = {**known, **page_texts.section("why_of")}
        if code not in known:
            return page_texts.text("why.call_form" if event.kind == "proxy.called" else "why.other", code=code)
        provider = self._deployment.catalog.get(self._provider(event))
        title = page_texts.text("story.the_provider") if provider is None else provider.title
        return known[code].format(provider=title)

    def _fix(self, event: Event, code: str) -> tuple[str, str]:
        """What to do about a refusal and the page on which that is done, each empty if there is none."""
        fix = page_texts.section("fix").get(code, "")
        base = code.removesuffix("_" + str(event.details.get("reason", "")))
        if not fix:
            return "", ""
        if base in _AT_AGENT and event.client_id in self._agents:
            return fix, access.agent_path(event.client_id or "")
        if base in _AT_APPROVALS:
            return fix, "/approvals"
        if base == "password":
            return fix, "/account"
        if base == "connection_required" or base in _AT_ACCOUNT:
            owned = self._accounts.get(event.connection_id or "")
            if owned is not None and owned.state is not ConnectionState.REVOKED:
                return fix, f"/connections/{owned.id}"
            provider = self._deployment.catalog.get(self._provider(event))
            asked = "" if provider is None else "/connect?" + urlencode({"provider": provider.name})
            return fix, f"/connections{asked}"
        return fix, ""

    def _facts(self, event: Event) -> list[tuple[str, str]]:
        section = page_texts.section("fact")
        facts = [
            (section["event"], event.kind),
            (section["outcome"], event.outcome),
            (section["number"], str(event.sequence)),
        ]
        if event.client_id is not None:
            facts.append((section["client"], event.client_id))
        facts += [
            (section.get(name, name.replace("_", " ")), texts.fact(value)) for name, value in event.details.items()
        ]
        return facts


def _sentence_name(event: Event) -> str:
    """The text that tells this event."""
    family, _, what = event.kind.partition(".")
    if family == "approval" and what in _OF_REQUESTS and "resource" in event.details:
        return _OF_REQUESTS[what]
    if (family, what) == ("approval", "given") and event.details.get("method") == "notification":
        return "story.approved_in_notification"
    if event.kind in {"connection.opened", "connection.entered"}:
        return _connected_name(event)
    if event.kind == "tool.called":
        if event.outcome != "ok":
            return "story.tool_refused" if event.outcome == "refused" else "story.tool_failed"
        return "story.tool_used_with" if event.connection_id is not None else "event.tool.called"
    if event.kind in page_texts.section("event"):
        return f"event.{event.kind}"
    return "story.unknown"


def _connected_name(event: Event) -> str:
    """The text that tells who connected an account, or entered its credential."""
    details = event.details
    if event.kind == "connection.opened":
        if details.get("method") == "import":
            return "story.imported"
        is_entered = details.get("by_other") or details.get("by_self")
        return "story.connected_by_other" if is_entered else "event.connection.opened"
    if details.get("by_self"):
        return "story.own_credential_replaced" if details.get("replaced") else "story.added_by_self"
    return "story.credential_replaced" if details.get("replaced") else "event.connection.entered"


def _code(event: Event) -> str:
    """Why it did not work, as a key of the catalogue; empty where it did."""
    if event.outcome == "ok":
        return ""
    code, reason = str(event.details.get("code", "")), str(event.details.get("reason", ""))
    if not code:
        return reason or str(event.details.get("method", ""))
    return f"{code}_{reason}" if f"{code}_{reason}" in page_texts.section("why") else code


def _scopes(event: Event) -> frozenset[str]:
    scopes = event.details.get("scopes")
    match scopes:
        case str():
            return parse_scope(scopes)
        case list() | tuple():
            return frozenset(str(one) for one in scopes)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- JSON scalars
        case _:
            return frozenset()


def _name(name: str) -> Markup | str:
    """A name that people or providers chose: kept apart from the direction of the sentence."""
    return Markup("<bdi>{}</bdi>").format(texts.visible(name)) if name else ""


async def agent_names(deployment: Deployment, events: Sequence[Event]) -> dict[str, str]:
    """The agents of these events by id, as far as they still exist."""
    names: dict[str, str] = {}
    for client_id in {event.client_id for event in events if event.client_id is not None}:
        client = await clients.get_client(deployment.database, client_id)
        if client is not None:
            names[client_id] = client.name or client_id
    return names


async def people_of(deployment: Deployment, events: Sequence[Event]) -> dict[str, tuple[str, str]]:
    """Whose these events are: name and page in the administration by id, as far as they still exist."""
    found: dict[str, tuple[str, str]] = {}
    for user_id in {event.user_id for event in events if event.user_id is not None}:
        user = await users.get_user(deployment.database, user_id)
        if user is not None:
            found[user_id] = user.name, f"/administration/people/{quote(user_id, safe='')}"
    return found
