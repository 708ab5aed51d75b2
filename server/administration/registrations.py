"""Our registrations at providers: the state of each, and entering, testing, and removing one.

An entered registration is sealed in the database and takes effect in every process within seconds. A registration in
the settings takes precedence and can't be changed here. A stored secret is never shown again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from providers.definitions.catalog import Provider, is_shipped
from providers.definitions.inputs import InputRefused, input_values, value_problem
from server.administration.actor import Actor, ChangeRefused
from server.deployment import Deployment
from server.doctor.findings import Finding
from server.doctor.providers import check_provider
from server.live_providers import REFUSALS
from server.runtime.catalog import is_set_here
from server.setup.provider_consoles import Guide, guide_for, id_problem, secret_problem, service_of
from vault import registrations, tickets
from vault.audit import audit
from vault.refresh import consents
from vault.refusals import CiphertextRejected
from vault.registrations import EnteredRegistration, StoredRegistration
from vault.storage.database import Transaction
from vault.upkeep import census, revocations
from vault.upkeep.census import SEEN_AT_PROVIDER

_TEST_WAIT: Final = 20.0  # seconds


@dataclass(frozen=True, slots=True)
class Health:
    """The health of a provider that is set up: a text, and whether it is good. `since`: when a problem began."""

    kind: str  # a key in the texts `provider_health`
    is_good: bool
    count: int = 0
    to_reconnect: int = 0
    since: int | None = None
    reason: str = ""

    @property
    def number(self) -> str:
        """The number of accounts as shown."""
        return f"{SEEN_AT_PROVIDER - 1}+" if self.count >= SEEN_AT_PROVIDER else str(self.count)


@dataclass(frozen=True, slots=True)
class RegistrationInput:
    """The values that an admin enters. An empty secret keeps the stored one."""

    client_id: str
    client_secret: str = field(repr=False, default="")
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    is_testing: bool = False


def provider_named(deployment: Deployment, name: str) -> Provider:
    """The provider. Raises ChangeRefused if it doesn't exist or needs no registration."""
    found = deployment.catalog.get(name)
    if found is None or found.name != name or found.audience is not None:
        raise ChangeRefused("no_provider", "There is no provider with this name.", kind="not_found")
    return found


def is_known_here(deployment: Deployment, provider: Provider) -> bool:
    """Whether the provider is set up, or someone tried to set it up."""
    is_unusable = provider.name in deployment.live.current.unusable
    return is_unusable or deployment.vault.upstreams[provider.name].is_configured


async def health_of(deployment: Deployment, provider: Provider) -> Health:
    """The provider's health, from this process and the database."""
    reason = deployment.live.current.unusable.get(provider.name)
    if reason is not None:
        return Health("unusable", is_good=False, reason=reason)
    if not deployment.vault.upstreams[provider.name].is_configured:
        return Health("missing", is_good=False)
    trouble = deployment.vault.tasks.breakers.trouble(provider.name)
    seen = await census.count_at_provider(deployment.database, provider.name)
    if trouble is not None:
        return Health(trouble.kind, is_good=False, count=seen.count, since=trouble.since)
    if seen.to_reconnect:
        return Health("reconnect", is_good=False, count=seen.count, to_reconnect=seen.to_reconnect)
    if not seen.count:
        return Health("unused", is_good=True)
    return Health("works", is_good=True, count=seen.count, since=seen.refreshed_at)


def guide_of(deployment: Deployment, provider: Provider) -> Guide:
    """The values to enter at the provider's console."""
    settings = deployment.settings
    return guide_for(provider, deployment.tools, public_url=settings.public_url, is_loopback=settings.is_loopback)


async def own_registration(actor: Actor, provider: Provider, *, revision: str | None) -> StoredRegistration | None:
    """The stored registration, if it still has the `revision` that the caller knows (None for any).

    Raises ChangeRefused if it has changed or is set in the settings.
    """
    if is_set_here(actor.deployment.settings, provider.name):
        raise ChangeRefused(
            "in_settings",
            f"{provider.title} is set in the settings file, which takes precedence: change it there.",
            kind="conflict",
            provider=provider.title,
        )
    stored = await registrations.get_registration(actor.deployment.database, provider.name)
    if revision is not None and revision != ("" if stored is None else stored.revision):
        raise _out_of_date()
    return stored


async def check_nothing_left(deployment: Deployment, transaction: Transaction, name: str) -> None:
    """Check that no token of this provider is left to be sent, since its address may change. Raises ChangeRefused.

    In the order in which an account changes: an answer becomes a connection, and that a revocation.
    """
    pending = await tickets.unfinished_states(transaction, deployment.keys, now=deployment.now())
    if any(consents.consent_of(one).provider == name for one in pending):
        raise ChangeRefused(
            "still_connecting",
            f"An account is being connected to {name}. Try again in a minute. If a host of the vault stopped "
            "meanwhile, start it again: it may hold the answer.",
            kind="conflict",
        )
    seen = await census.count_at_provider(transaction, name)
    if seen.count:
        raise ChangeRefused(
            "still_connected",
            f"Accounts still connected to {name}: {seen.count}. End their grants first: "
            f"token-vault panic --provider {name}",
            kind="conflict",
        )
    if await revocations.has_unfinished(transaction, name):
        raise ChangeRefused(
            "still_ending",
            f"Grants at {name} are still being ended. Follow them with token-vault receipts list, and try again when "
            "they are done.",
            kind="conflict",
        )


def _has_these_inputs(provider: Provider, stored: StoredRegistration, inputs: Mapping[str, str]) -> bool:
    """Whether the provider's addresses stay the same."""
    try:
        return input_values(provider, stored.inputs) == input_values(provider, inputs)
    except InputRefused:  # the provider's file has changed
        return False


async def _check_addresses(
    actor: Actor,
    transaction: Transaction,
    provider: Provider,
    stored: StoredRegistration | None,
    inputs: Mapping[str, str],
) -> None:
    """Check that tokens aren't sent to another host than the one that issued them. Raises ChangeRefused.

    Without a stored registration, the earlier host is unknown, as when it was in the settings: only the operator, who
    can change those, may say that it is the same.
    """
    if stored is None and actor.is_operator and actor.agent is None:
        return
    if stored is not None and _has_these_inputs(provider, stored, inputs):
        return
    try:
        await check_nothing_left(actor.deployment, transaction, provider.name)
    except ChangeRefused as left:
        why = (
            f"The vault doesn't know the address that the tokens of {provider.title} are for."
            if stored is None
            else f"With other inputs, tokens of {provider.title} would be sent to another address."
        )
        raise ChangeRefused(
            "inputs_in_use",
            f"{why} {left} Or have the operator set the inputs in the settings file, at "
            f"providers.{provider.name}.inputs.",
            kind="conflict",
        ) from left


async def save(
    actor: Actor, provider: Provider, wanted: RegistrationInput, *, stored: StoredRegistration | None
) -> StoredRegistration:
    """Store our registration in place of the `stored` one, if it is plausible. Raises ChangeRefused."""
    deployment, now = actor.deployment, actor.deployment.now()
    entered = await _check_input(deployment, provider, wanted, stored)
    try:
        await deployment.live.check(provider.name, entered)
    except REFUSALS as refusal:
        raise _wrong("", str(refusal)) from refusal
    async with actor.change() as transaction:
        if provider.inputs:
            await _check_addresses(actor, transaction, provider, stored, entered.inputs)
        kept = await registrations.save_registration(
            transaction,
            deployment.keys,
            entered,
            provider=provider.name,
            by="" if actor.user is None else actor.user.id,
            now=now,
            known=stored,
        )
        if kept is None:
            raise _out_of_date()
        event = actor.event("provider.set_up", provider=provider.name, client=entered.client_id)
        await audit.append(transaction, event, now=now)
    await _take_effect(deployment, had_secret=stored is not None)
    return kept


async def remove(actor: Actor, provider: Provider, *, stored: StoredRegistration | None) -> None:
    """Delete our registration and destroy its secret's key. Raises ChangeRefused."""
    deployment = actor.deployment
    async with actor.change() as transaction:
        if provider.inputs:  # the next registration may have other ones
            await check_nothing_left(deployment, transaction, provider.name)
        if stored is None or not await registrations.remove_registration(transaction, deployment.keys, stored):
            raise _out_of_date()
        event = actor.event("provider.removed", provider=provider.name, client=stored.client_id)
        await audit.append(transaction, event, now=deployment.now())
    await _take_effect(deployment, had_secret=True)


async def ask_provider(deployment: Deployment, provider: Provider) -> list[Finding] | None:
    """Whether the provider knows our registration, as checked by `token-vault doctor`; None if it doesn't answer in
    time."""
    try:
        async with asyncio.timeout(_TEST_WAIT):
            return await check_provider(deployment, provider)
    except TimeoutError:
        return None


async def _check_input(
    deployment: Deployment, provider: Provider, wanted: RegistrationInput, stored: StoredRegistration | None
) -> EnteredRegistration:
    secret = await _secret(deployment, provider, wanted, stored)
    for name in wanted.inputs:
        if name not in provider.inputs:
            raise _wrong(f"inputs.{name}", f"{provider.title} has no input {name}")
    for name, about in provider.inputs.items():
        if name not in wanted.inputs and about.default is None:
            raise ChangeRefused(
                "input_missing",
                f"Enter {about.title}, for example {about.example}.",
                field=f"inputs.{name}",
                title=about.title,
                example=about.example,
            )
        if name in wanted.inputs and (problem := value_problem(provider, name, wanted.inputs[name])):
            raise _wrong(f"inputs.{name}", problem)
    is_testing = wanted.is_testing and provider.expires.testing is not None
    return EnteredRegistration(wanted.client_id, secret, wanted.inputs, is_testing)


async def _secret(
    deployment: Deployment, provider: Provider, wanted: RegistrationInput, stored: StoredRegistration | None
) -> str | None:
    if provider.credential is not None:  # people enter their own
        return None
    ships = is_shipped(provider.name)
    service = service_of(provider.name, token_url=provider.hosts.token_url, ships=ships)
    if problem := id_problem(service, wanted.client_id):
        raise _wrong("client_id", problem)
    if guide_of(deployment, provider).client == "public":
        return None
    has_kept = stored is not None and stored.sealed is not None and stored.client_id == wanted.client_id
    if not wanted.client_secret and stored is not None and has_kept:
        if not _has_these_inputs(provider, stored, wanted.inputs):
            raise ChangeRefused(
                "secret_elsewhere",
                "With other inputs, the secret would be sent to another address. Enter the secret for that address.",
                field="client_secret",
            )
        try:
            kept = await registrations.open_registration(deployment.database, deployment.keys, stored)
        except CiphertextRejected as error:
            raise ChangeRefused(
                "unreadable", "The stored secret can't be opened: enter it again.", field="client_secret"
            ) from error
        return kept.client_secret
    if problem := secret_problem(wanted.client_secret, service=service, client_id=wanted.client_id):
        raise _wrong("client_secret", problem)
    return wanted.client_secret


async def _take_effect(deployment: Deployment, *, had_secret: bool) -> None:
    """Apply the change in this process immediately; other processes notice it by themselves."""
    await deployment.live.refresh(deployment.database, deployment.keys)
    if had_secret:
        await revocations.scrub(deployment.vault, ())


def _out_of_date() -> ChangeRefused:
    return ChangeRefused(
        "registration_changed",
        "Someone changed this registration in the meantime. Read it again.",
        kind="changed_meanwhile",
    )


def _wrong(field: str, description: str) -> ChangeRefused:
    return ChangeRefused("registration_refused", description, field=field)
