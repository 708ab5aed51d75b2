"""Providers: which are set up, the state of each, and a form to set one up, like `token-vault providers setup`.

`server.administration.registrations` stores what an administrator enters. A stored secret is never shown again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from starlette.responses import Response

from providers.definitions.catalog import Provider
from server.administration import registrations
from server.administration.actor import ChangeRefused
from server.administration.registrations import RegistrationInput
from server.connecting.provider_authorization import callback_url
from server.doctor.findings import Finding
from server.errors import status_of
from server.http.page_texts import section, text
from server.http.translations import translate_filled, with_language
from server.portal.administration.room import ROOT, AdminVisit
from server.portal.forms import PageRefused
from server.runtime.catalog import is_set_here
from vault import registrations as stored_registrations
from vault.registrations import StoredRegistration
from vault.upkeep import census

PAGE: Final = f"{ROOT}/providers"


@dataclass(frozen=True, slots=True)
class _Draft:
    """The form's values: those stored, or those sent and refused. Never the secret."""

    client_id: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    is_testing: bool = False


async def show(visit: AdminVisit) -> Response:
    """All providers: those that are set up, with their health, and the others by search."""
    deployment = visit.deployment
    everything = await asyncio.to_thread(deployment.catalog.all_providers)
    wanted = visit.query("find").strip()[:60]
    named = [one for one in everything if one.audience is None and _matches(one, wanted)]
    ready = [one for one in named if registrations.is_known_here(deployment, one)]
    context: dict[str, object] = {
        "ready": [
            (one, await registrations.health_of(deployment, one), is_set_here(deployment.settings, one.name))
            for one in ready
        ],
        "others": [one for one in named if one not in ready],
        "find": wanted,
    }
    return await visit.page("providers.html", context)


def _matches(provider: Provider, wanted: str) -> bool:
    folded = wanted.casefold()
    return folded in provider.title.casefold() or folded in provider.name


async def show_one(visit: AdminVisit) -> Response:
    """One provider: what to enter at its console, and our registration there."""
    provider = _provider(visit)
    stored = await stored_registrations.get_registration(visit.deployment.database, provider.name)
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
    guide = registrations.guide_of(deployment, provider)
    settings = deployment.settings.providers.get(provider.name)
    is_here = is_set_here(deployment.settings, provider.name)
    context: dict[str, object] = {
        "provider": provider,
        "path": path_of(provider.name),
        "guide": guide,
        "steps": [with_language(one) for one in guide.steps],
        "warnings": [with_language(one) for one in guide.warnings if "--" not in one],  # not about command-line options
        "health": await registrations.health_of(deployment, provider),
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


def _provider(visit: AdminVisit) -> Provider:
    """The provider in the address."""
    return registrations.provider_named(visit.deployment, visit.param("provider"))


async def save(visit: AdminVisit) -> Response:
    """Store our registration there, if it is plausible."""
    provider, form = _provider(visit), visit.form
    stored = await registrations.own_registration(visit.actor, provider, revision=form.one("revision"))
    draft = _Draft(
        form.one("client_id").strip()[:200],
        {name: value for name in provider.inputs if (value := form.one(f"input.{name}").strip())},
        form.one("is_testing") == "yes" and provider.expires.testing is not None,
    )
    secret = form.one("client_secret").strip()
    wanted = RegistrationInput(draft.client_id, secret, draft.inputs, draft.is_testing)
    try:
        await registrations.save(visit.actor, provider, wanted, stored=stored)
    except ChangeRefused as refused:
        if refused.kind != "invalid_request":
            raise
        return await _page(visit, provider, stored, draft=draft, error=_in_page_words(refused))
    return await visit.go(path_of(provider.name), said=text("admin_provider.saved", provider=provider.title))


def _in_page_words(refused: ChangeRefused) -> str:
    """Why the registration can't be right, in the page's language if it is translated."""
    match refused.reason:
        case "input_missing":
            return text("admin_provider.input_missing", **refused.values)
        case "unreadable":
            return text("admin_provider.unreadable")
        case "secret_elsewhere":
            return text("admin_provider.secret_elsewhere")
        case _:
            return translate_filled(refused.description)


async def test(visit: AdminVisit) -> Response:
    """Ask the provider whether it knows our registration, as `token-vault doctor` does; nothing is changed there."""
    provider, deployment = _provider(visit), visit.deployment
    stored = await stored_registrations.get_registration(deployment.database, provider.name)
    answered = await registrations.ask_provider(deployment, provider)
    late: dict[str, object] = {
        "verdict": "problem",
        "sentence": text("admin_provider.no_answer", provider=provider.title),
        "fix": "",
    }
    found: list[dict[str, object]] = [late] if answered is None else [_in_words(one) for one in answered]
    draft = _Draft() if stored is None else _Draft(stored.client_id, stored.inputs, stored.is_testing)
    return await _page(visit, provider, stored, draft=draft, findings=found)


def _in_words(one: Finding) -> dict[str, object]:
    """A finding, with the fix that an administrator can make here, if there is one."""
    fix = section("admin_fix")[one.wrong] if one.wrong else translate_filled(one.fix)
    return {"verdict": one.verdict.value, "sentence": translate_filled(one.sentence), "fix": fix}


async def confirm(visit: AdminVisit) -> Response:
    """Ask before removing our registration."""
    provider = _provider(visit)
    stored = await stored_registrations.get_registration(visit.deployment.database, provider.name)
    if stored is None:
        raise PageRefused("no_registration", kind="not_found")
    context: dict[str, object] = {
        "provider": provider,
        "path": path_of(provider.name),
        "revision": stored.revision,
        "seen": await census.count_at_provider(visit.deployment.database, provider.name),
    }
    return await visit.page("remove_provider.html", context)


async def remove(visit: AdminVisit) -> Response:
    """Delete our registration and destroy its secret's key."""
    provider = _provider(visit)
    stored = await registrations.own_registration(visit.actor, provider, revision=visit.form.one("revision"))
    await registrations.remove(visit.actor, provider, stored=stored)
    return await visit.go(path_of(provider.name), said=text("admin_provider.removed", provider=provider.title))
