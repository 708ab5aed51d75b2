"""Providers: which are set up, how each does, and setting one up as `token-vault providers setup` does.

What an administrator enters is sealed in the database and counts in every process within seconds. A registration in
the settings comes first and cannot be changed here. A stored secret is never shown again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from starlette.responses import Response

from providers.definitions.catalog import SHELF, Provider
from providers.definitions.inputs import value_problem
from server.connecting.provider_authorization import callback_url
from server.deployment import Deployment
from server.doctor.findings import Finding
from server.doctor.providers import check_provider
from server.errors import status_of
from server.http.page_texts import CATALOGUE, text
from server.live_providers import REFUSALS
from server.portal.administration.room import ROOT, AdminVisit
from server.portal.forms import PageRefused
from server.runtime.catalog import is_set_here
from server.setup.provider_consoles import Guide, guide_for, id_problem, secret_problem, service_of
from vault import connections, registrations
from vault.audit import audit
from vault.connections import SEEN_AT_PROVIDER
from vault.refusals import CiphertextRejected
from vault.registrations import EnteredRegistration, StoredRegistration
from vault.upkeep import revocations

PAGE: Final = f"{ROOT}/providers"
_TEST_WAIT: Final = 20.0  # seconds


@dataclass(frozen=True, slots=True)
class Health:
    """How a provider that is set up does: in a sentence, and whether that is good. `since`: of a trouble."""

    kind: str  # a text of `provider_health`
    is_good: bool
    count: int = 0
    to_reconnect: int = 0
    since: int | None = None
    reason: str = ""

    @property
    def number(self) -> str:
        """The number of accounts, as it is shown."""
        return f"{SEEN_AT_PROVIDER - 1}+" if self.count >= SEEN_AT_PROVIDER else str(self.count)


@dataclass(frozen=True, slots=True)
class _Draft:
    """What the form shows: what is stored, or what was sent and refused. Never the secret."""

    client_id: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    is_testing: bool = False


async def show(visit: AdminVisit) -> Response:
    """All providers: those that are set up with their health, the others by search."""
    deployment = visit.deployment
    everything = await asyncio.to_thread(deployment.catalog.all_providers)
    wanted = visit.query("find").strip()[:60]
    named = [one for one in everything if one.audience is None and _matches(one, wanted)]
    ready = [one for one in named if is_known_here(deployment, one)]
    context: dict[str, object] = {
        "ready": [(one, await health_of(deployment, one), is_set_here(deployment.settings, one.name)) for one in ready],
        "others": [one for one in named if one not in ready],
        "find": wanted,
    }
    return await visit.page("providers.html", context)


def _matches(provider: Provider, wanted: str) -> bool:
    folded = wanted.casefold()
    return folded in provider.title.casefold() or folded in provider.name


def is_known_here(deployment: Deployment, provider: Provider) -> bool:
    """Whether it is set up, or somebody tried to."""
    is_unusable = provider.name in deployment.live.current.unusable
    return is_unusable or deployment.vault.upstreams[provider.name].is_configured


async def health_of(deployment: Deployment, provider: Provider) -> Health:
    """What this process and the database know of it."""
    reason = deployment.live.current.unusable.get(provider.name)
    if reason is not None:
        return Health("unusable", is_good=False, reason=reason)
    if not deployment.vault.upstreams[provider.name].is_configured:
        return Health("missing", is_good=False)
    trouble = deployment.vault.tasks.breakers.trouble(provider.name)
    seen = await connections.count_at_provider(deployment.database, provider.name)
    if trouble is not None:
        return Health(trouble.kind, is_good=False, count=seen.count, since=trouble.since)
    if seen.to_reconnect:
        return Health("reconnect", is_good=False, count=seen.count, to_reconnect=seen.to_reconnect)
    if not seen.count:
        return Health("unused", is_good=True)
    return Health("works", is_good=True, count=seen.count, since=seen.refreshed_at)


async def show_one(visit: AdminVisit) -> Response:
    """One provider: what to enter at its console, and our registration there."""
    provider = _provider(visit)
    stored = await registrations.get_registration(visit.deployment.database, provider.name)
    draft = _Draft() if stored is None else _Draft(stored.client_id, stored.inputs, stored.is_testing)
    return await _page(visit, provider, stored, draft=draft)


async def _page(
    visit: AdminVisit,
    provider: Provider,
    stored: StoredRegistration | None,
    *,
    draft: _Draft,
    error: str = "",
    findings: list[dict[str, object]] | None = None,
) -> Response:
    deployment = visit.deployment
    guide = _guide(deployment, provider)
    settings = deployment.settings.providers.get(provider.name)
    is_here = is_set_here(deployment.settings, provider.name)
    context: dict[str, object] = {
        "provider": provider,
        "path": path_of(provider.name),
        "guide": guide,
        "warnings": [one for one in guide.warnings if "--" not in one],  # of the command line's options
        "health": await health_of(deployment, provider),
        "is_set_up": deployment.vault.upstreams[provider.name].is_configured,
        "in_settings": is_here,
        "client_id": settings.client_id if is_here and settings is not None else draft.client_id,
        "draft": draft,
        "revision": "" if stored is None else stored.revision,
        "stored": stored,
        "inputs": [
            (name, about, draft.inputs.get(name, about.default or "")) for name, about in provider.inputs.items()
        ],
        "fixed_inputs": {} if settings is None else settings.inputs,
        "has_testing": provider.expires.testing is not None,
        "callback": callback_url(deployment, provider.name),
        "error": error,
        "findings": findings,
    }
    return await visit.page("provider.html", context, status=status_of("invalid_request") if error else 200)


def path_of(name: str) -> str:
    """The page of a provider."""
    return f"{PAGE}/{quote(name, safe='')}"


def _guide(deployment: Deployment, provider: Provider) -> Guide:
    settings = deployment.settings
    return guide_for(provider, deployment.tools, public_url=settings.public_url, is_loopback=settings.is_loopback)


def _provider(visit: AdminVisit) -> Provider:
    """The provider in the address. Raises PageRefused for one that needs no registration, too."""
    name = visit.param("provider")
    found = visit.deployment.catalog.get(name)
    if found is None or found.name != name or found.audience is not None:
        raise PageRefused("no_provider", kind="not_found")
    return found


async def _own_registration(visit: AdminVisit, provider: Provider) -> StoredRegistration | None:
    """What is stored, as the page showed it. Raises PageRefused when that changed, or the settings have it."""
    if is_set_here(visit.deployment.settings, provider.name):
        raise PageRefused("in_settings", kind="conflict", provider=provider.title)
    stored = await registrations.get_registration(visit.deployment.database, provider.name)
    if visit.form.one("revision") != ("" if stored is None else stored.revision):
        raise PageRefused("registration_changed", kind="conflict")
    return stored


async def save(visit: AdminVisit) -> Response:
    """Store our registration there, if it can be right."""
    provider, deployment = _provider(visit), visit.deployment
    stored = await _own_registration(visit, provider)
    form = visit.form
    draft = _Draft(
        form.one("client_id").strip()[:200],
        {name: value for name in provider.inputs if (value := form.one(f"input.{name}").strip())},
        form.one("is_testing") == "yes" and provider.expires.testing is not None,
    )
    secret, problem = await _secret(visit, provider, stored, client_id=draft.client_id)
    problem = problem or _input_problem(provider, draft.inputs)
    entered = EnteredRegistration(draft.client_id, secret, draft.inputs, draft.is_testing)
    if not problem:
        try:
            await deployment.live.check(provider.name, entered)
        except REFUSALS as refusal:
            problem = str(refusal)
    if problem:
        return await _page(visit, provider, stored, draft=draft, error=problem)
    now = deployment.now()
    async with visit.change() as transaction:
        kept = await registrations.save_registration(
            transaction, deployment.keys, entered, provider=provider.name, by=visit.user.id, now=now, known=stored
        )
        if kept is None:
            raise PageRefused("registration_changed", kind="conflict")
        event = visit.event("provider.set_up", provider=provider.name, client=entered.client_id)
        await audit.append(transaction, event, now=now)
    await _take_effect(deployment, had_secret=stored is not None)
    return await visit.go(path_of(provider.name), said=text("admin_provider.saved", provider=provider.title))


async def _secret(
    visit: AdminVisit, provider: Provider, stored: StoredRegistration | None, *, client_id: str
) -> tuple[str | None, str]:
    """The client secret and "", or None and why id or secret cannot be right. An empty field keeps the stored one."""
    ships = (SHELF / f"{provider.name}.toml").is_file()
    service = service_of(provider.name, token_url=provider.hosts.token_url, ships=ships)
    if problem := id_problem(service, client_id):
        return None, problem
    if _guide(visit.deployment, provider).client == "public":
        return None, ""
    given = visit.form.one("client_secret").strip()
    if not given and stored is not None and stored.sealed is not None and stored.client_id == client_id:
        try:
            kept = await registrations.open_registration(visit.deployment.database, visit.deployment.keys, stored)
        except CiphertextRejected:
            return None, text("admin_provider.unreadable")
        return kept.client_secret, ""
    problem = secret_problem(given, service=service, client_id=client_id)
    return (None, problem) if problem else (given, "")


def _input_problem(provider: Provider, inputs: Mapping[str, str]) -> str:
    for name, about in provider.inputs.items():
        if name not in inputs and about.default is None:
            return text("admin_provider.input_missing", title=about.title, example=about.example)
        if name in inputs and (problem := value_problem(provider, name, inputs[name])):
            return problem
    return ""


async def _take_effect(deployment: Deployment, *, had_secret: bool) -> None:
    """Here at once; other processes look by themselves."""
    await deployment.live.refresh(deployment.database, deployment.keys)
    if had_secret:
        await revocations.scrub(deployment.vault, ())


async def test(visit: AdminVisit) -> Response:
    """Ask the provider whether it knows our registration, as `token-vault doctor` does; nothing is changed there."""
    provider, deployment = _provider(visit), visit.deployment
    stored = await registrations.get_registration(deployment.database, provider.name)
    found: list[dict[str, object]]
    try:
        async with asyncio.timeout(_TEST_WAIT):
            found = [_in_words(one) for one in await check_provider(deployment, provider)]
    except TimeoutError:
        found = [
            {"verdict": "problem", "sentence": text("admin_provider.no_answer", provider=provider.title), "fix": ""}
        ]
    draft = _Draft() if stored is None else _Draft(stored.client_id, stored.inputs, stored.is_testing)
    return await _page(visit, provider, stored, draft=draft, findings=found)


def _in_words(one: Finding) -> dict[str, object]:
    """A finding, with the fix that an administrator can do here where there is one."""
    fix = CATALOGUE["admin_fix"].get(one.check.rpartition(".")[2], one.fix) if one.fix else ""
    return {"verdict": one.verdict.value, "sentence": one.sentence, "fix": fix}


async def confirm(visit: AdminVisit) -> Response:
    """Ask before removing our registration."""
    provider = _provider(visit)
    stored = await registrations.get_registration(visit.deployment.database, provider.name)
    if stored is None:
        raise PageRefused("no_registration", kind="not_found")
    context: dict[str, object] = {
        "provider": provider,
        "path": path_of(provider.name),
        "revision": stored.revision,
        "seen": await connections.count_at_provider(visit.deployment.database, provider.name),
    }
    return await visit.page("remove_provider.html", context)


async def remove(visit: AdminVisit) -> Response:
    """Delete our registration and destroy its secret's key."""
    provider, deployment = _provider(visit), visit.deployment
    stored, now = await _own_registration(visit, provider), deployment.now()
    async with visit.change() as transaction:
        if stored is None or not await registrations.remove_registration(transaction, deployment.keys, stored):
            raise PageRefused("registration_changed", kind="conflict")
        event = visit.event("provider.removed", provider=provider.name, client=stored.client_id)
        await audit.append(transaction, event, now=now)
    await _take_effect(deployment, had_secret=True)
    return await visit.go(path_of(provider.name), said=text("admin_provider.removed", provider=provider.title))
