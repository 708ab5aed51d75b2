"""The rules for everyone in this vault: the policies in effect with their settings, and the tools and tool sets.

Read-only: the settings decide, and a change there takes a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from providers.tools.spec import ToolSpec
from server.deployment import Deployment
from server.http.page_texts import section, text
from server.http.translations import translate
from server.portal import texts
from server.portal.administration.room import AdminVisit
from server.settings import Settings
from vault.approvals import standing_approvals

_SECONDS: Final = (("days", 86400), ("hours", 3600), ("minutes", 60), ("seconds", 1))


@dataclass(frozen=True, slots=True)
class Policy:
    """One rule as a sentence, and the setting that makes it."""

    sentence: str
    setting: str


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool with its requirements, in words."""

    spec: ToolSpec
    title: str
    scopes: tuple[str, ...]
    is_asked: bool  # each call needs its person's approval, whoever they are


async def show_policies(visit: AdminVisit) -> Response:
    """The rules, by topic."""
    deployment = visit.deployment
    settings = deployment.settings
    standing = await standing_approvals.count_live(deployment.database, now=deployment.now())
    context: dict[str, object] = {
        "sections": [
            ("agents", list(_of_agents(settings))),
            ("people", list(_of_people(settings))),
            ("approvals", list(_of_approvals(deployment, standing))),
            ("limits", list(_of_limits(settings))),
            ("providers", list(_of_providers(settings))),
            ("tokens", list(_of_tokens(settings))),
            ("retention", list(_of_retention(settings))),
        ],
    }
    return await visit.page("policies.html", context)


def _policy(name: str, setting: str, **values: object) -> Policy:
    return Policy(text(f"policy.{name}", **values), setting)


def _list_of(values: Iterable[object]) -> str:
    return ", ".join(str(one) for one in values) or text("policy.nothing")


def _duration(seconds: int) -> str:
    """A duration in the largest unit without a remainder and with a plural, such as 24 hours instead of one day."""
    unit, size = next((unit, size) for unit, size in _SECONDS if seconds % size == 0 and seconds // size != 1)
    return text(f"policy.{unit}", number=seconds // size)


def _of_agents(settings: Settings) -> Iterator[Policy]:
    rules = settings.registration
    yield Policy(_plain(section("admin_mode")[settings.registration_mode]), "registration.mode")
    if settings.registration_mode == "allow_list":
        yield _policy("hosts", "registration.allowed_hosts", hosts=_list_of(rules.allowed_hosts))
    if settings.registration_mode != "closed":
        yield _policy("per_address", "registration.per_address_hourly", number=rules.per_address_hourly)
        yield _policy("unused", "registration.unused_lifetime", time=_duration(rules.unused_lifetime))
    name = "confidential" if settings.exchange.confidential_only else "all_exchange"
    yield _policy(name, "exchange.confidential_only")


def _plain(text_: str) -> str:
    return text_.replace("<code>", "").replace("</code>", "").rstrip(":")


def _of_people(settings: Settings) -> Iterator[Policy]:
    rules = settings.sign_in
    yield _policy("passwords" if rules.local else "no_passwords", "sign_in.local")
    for name, one in rules.openid.items():
        domains = _list_of(one.domains)
        kind = "openid_anyone" if one.create_users else "openid_domains" if one.domains else "openid_known"
        yield _policy(kind, f"sign_in.openid.{name}", title=one.title, domains=domains)
    words = [section("policy")[f"passkey_{one}"] for one in rules.passkey_for]
    yield _policy("passkeys" if words else "no_passkeys", "sign_in.passkey_for", what=_list_of(words))
    yield _policy("recent", "sign_in.recent_lifetime", time=_duration(rules.recent_lifetime))
    yield _policy("idle", "sign_in.session_idle_lifetime", time=_duration(rules.session_idle_lifetime))


def _of_approvals(deployment: Deployment, standing: int) -> Iterator[Policy]:
    rules = deployment.settings.approvals
    yield _policy("ask", "approvals.ask", what=_list_of(rules.ask))
    if declared := [texts.tool_title(spec) for spec in deployment.tools if spec.approval]:
        yield _policy("ask_declared", "", what=_list_of(declared))
    words = [section("policy").get(f"standing_{one}", one) for one in rules.no_standing]
    yield _policy("no_standing" if words else "all_standing", "approvals.no_standing", what=_list_of(words))
    yield _policy("standing", "", number=standing)


def _of_limits(settings: Settings) -> Iterator[Policy]:
    yield _policy("calls", "tools.calls_per_minute", number=settings.tools.calls_per_minute)
    yield _policy("tokens_hourly", "tokens.per_agent_hourly", number=settings.tokens.per_agent_hourly)
    yield _policy("proxy_hourly", "proxy.per_agent_hourly", number=settings.proxy.per_agent_hourly)
    yield _policy("failures", "sign_in.failures_per_account", number=settings.sign_in.failures_per_account)


def _of_providers(settings: Settings) -> Iterator[Policy]:
    found = False
    for name, one in settings.providers.items():
        if one.scopes is not None:
            found = True
            yield _policy("scopes", f"providers.{name}.scopes", provider=name, scopes=_list_of(one.scopes))
        if one.unruled_calls != "refuse":
            found = True
            yield _policy(f"unruled_{one.unruled_calls}", f"providers.{name}.unruled_calls", provider=name)
    if not found:
        yield _policy("no_provider_rules", "")


def _of_tokens(settings: Settings) -> Iterator[Policy]:
    rules = settings.tokens
    yield _policy("access", "tokens.access_lifetime", time=_duration(rules.access_lifetime))
    yield _policy("refresh", "tokens.refresh_lifetime", time=_duration(rules.refresh_lifetime))
    yield _policy("resting", "tokens.refresh_idle_lifetime", time=_duration(rules.refresh_idle_lifetime))
    yield _policy("dpop" if rules.require_dpop else "no_dpop", "tokens.require_dpop")


def _of_retention(settings: Settings) -> Iterator[Policy]:
    for name, setting, days in (
        ("activity", "activity.retention_days", settings.activity.retention_days),
        ("ended", "retention.ended_days", settings.retention.ended_days),
    ):
        yield _policy(f"keep_{name}" if days else f"keep_all_{name}", setting, number=days)


async def show_tools(visit: AdminVisit) -> Response:
    """Every tool that agents can have, by provider, and the sets of them."""
    deployment = visit.deployment
    wanted = visit.query("find").strip()[:60].casefold()
    tools = [_offered_tool(deployment, one) for one in deployment.tools]
    found = [one for one in tools if wanted in one.spec.name or wanted in one.title.casefold()]
    offer = deployment.offer
    context: dict[str, object] = {
        "groups": _by_provider(deployment, found),
        "number": len(tools),
        "find": visit.query("find").strip()[:60],
        "sets": [(one, translate(one.title), one.name == offer.profile) for one in offer.sets.values()],
        "profile": translate(offer.sets[offer.profile].title),
        "limit": offer.list_limit,
        "profiles": sorted(offer.profiles.items()),
        "hidden": sorted((client, len(names)) for client, names in offer.hidden.items() if names),
    }
    return await visit.page("tools.html", context)


def _offered_tool(deployment: Deployment, spec: ToolSpec) -> OfferedTool:
    provider = None if spec.provider is None else deployment.catalog.get(spec.provider)
    scopes = tuple(texts.scope_title(provider, one) for one in sorted(spec.scopes))
    asked = deployment.settings.approvals.ask
    is_asked = spec.approval or spec.name in asked or any(f"{spec.provider}:{one}" in asked for one in spec.scopes)
    return OfferedTool(spec, texts.tool_title(spec), scopes, is_asked)


def _by_provider(
    deployment: Deployment, tools: Sequence[OfferedTool]
) -> Sequence[tuple[str, str, Sequence[OfferedTool]]]:
    """Name, title and tools of each provider, by title."""
    groups: dict[str, list[OfferedTool]] = {}
    for one in tools:
        groups.setdefault(one.spec.provider or "", []).append(one)
    titles: Mapping[str, str] = {
        name: found.title for name in groups if (found := deployment.catalog.get(name)) is not None
    }
    return [(name, titles.get(name, name), groups[name]) for name in sorted(groups, key=lambda n: titles.get(n, n))]
