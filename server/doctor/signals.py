"""Checks of signals: whether transmitters' keys are available, whether people can be found, and failing endpoints."""

from __future__ import annotations

from collections.abc import Sequence

from providers.outbound.addresses import AddressPolicy
from server.deployment import Deployment
from server.doctor.findings import Finding, note, ok, problem
from server.provider_settings import SettingsRefused
from server.signal_settings import SECRETS, TransmitterSettings
from server.signals import security_events
from server.signals.provider_schemes import SCHEMES
from server.signals.security_events import KeysAway
from server.signatures.key_sets import keys_behind
from vault import users
from vault.notices import endpoints

CHECK = "signals"


async def check_signals(deployment: Deployment) -> list[Finding]:
    """No findings if no signals are set up."""
    found: list[Finding] = []
    for name, one in deployment.settings.signals.transmitters.items():
        found += await _check_transmitter(deployment, name, one)
    return [*found, *_check_providers(deployment)]


async def _check_transmitter(deployment: Deployment, name: str, transmitter: TransmitterSettings) -> list[Finding]:
    setting = f"signals.transmitters.{name}"
    found = [*_check_settings(deployment, name, transmitter)]
    policy = AddressPolicy(allow_loopback=deployment.settings.sandbox.loopback_openid)
    try:
        url = transmitter.jwks_uri or await security_events.find_keys(deployment, transmitter, policy=policy)
    except KeysAway as away:
        fix = f"correct {setting}.issuer, or set {setting}.jwks_uri"
        return [*found, problem(CHECK, f"events from {name} can't be verified: {away}", fix=fix)]
    keys = await keys_behind(deployment.http, url, kid=None, policy=policy, on_behalf_of=None, now=deployment.now())
    if not keys:
        fix = f"correct {setting}.jwks_uri; the vault accepts ES256, ES384, RS256, PS256, and Ed25519"
        return [
            *found,
            problem(CHECK, f"events from {name} can't be verified: there is no usable key at {url}", fix=fix),
        ]
    return found or [
        ok(CHECK, f"the keys of {name} are available, and people are linked under {transmitter.people_of}")
    ]


def _check_settings(deployment: Deployment, name: str, transmitter: TransmitterSettings) -> Sequence[Finding]:
    setting, found = f"signals.transmitters.{name}", list[Finding]()
    for which in SECRETS:
        try:
            transmitter.secret(which, name)
        except SettingsRefused as refused:
            found.append(
                problem(CHECK, str(refused), fix=f"make the file readable for this user, or correct {setting}")
            )
    signs_in = {one.issuer for one in deployment.settings.sign_in.openid.values()}
    trusted = {one.identity_issuer or one.issuer for one in deployment.settings.issuers.values()}
    if transmitter.people_of not in signs_in | trusted and transmitter.provider is None:
        sentence = f"no sign-in uses {transmitter.people_of}, so events from {name} only find people linked by hand"
        fix = f"set {setting}.identity_issuer to the issuer of the sign-in, or run token-vault users link"
        found.append(note(CHECK, sentence, fix=fix))
    elif transmitter.people_of not in signs_in and "stop_agents" in _rules(transmitter):
        sentence = f"only an admin can resume agents that {name} stopped, because no sign-in uses its issuer"
        found.append(note(CHECK, sentence, fix="set up that sign-in: token-vault openid setup"))
    if transmitter.provider is not None and deployment.catalog.get(transmitter.provider) is None:
        near = f"correct {setting}.provider; token-vault providers list has the names"
        found.append(problem(CHECK, f"{transmitter.provider} isn't a provider here", fix=near))
    if transmitter.poll_url is None and not transmitter.audiences and deployment.settings.is_loopback:
        sentence = f"{name} can't push to {deployment.url(f'/signals/{name}')}: only this machine reaches that address"
        found.append(note(CHECK, sentence, fix=f"set server.public_url, or {setting}.poll_url"))
    return found


def _rules(transmitter: TransmitterSettings) -> set[str]:
    return {transmitter.session_revoked, transmitter.credential_change, transmitter.account_disabled}


def _check_providers(deployment: Deployment) -> list[Finding]:
    found: list[Finding] = []
    for name, one in deployment.settings.signals.providers.items():
        setting = f"signals.providers.{name}"
        if name not in SCHEMES:
            sentence = (
                f"webhooks from {name} can't be verified: the vault supports those from {', '.join(sorted(SCHEMES))}"
            )
            found.append(problem(CHECK, sentence, fix=f"remove {setting}"))
            continue
        try:
            one.keys(name)
        except SettingsRefused as refused:
            found.append(
                problem(CHECK, str(refused), fix=f"make the file readable for this user, or correct {setting}")
            )
            continue
        provider = deployment.catalog.get(name)
        if provider is None or not deployment.vault.upstreams[name].is_configured:
            sentence = f"webhooks from {name} are set up, but the provider isn't"
            found.append(note(CHECK, sentence, fix=f"run token-vault providers setup {name}, or remove {setting}"))
        else:
            found.append(ok(CHECK, f"webhooks from {name} arrive at {one.url or deployment.url(f'/webhooks/{name}')}"))
    return found


async def check_people_and_endpoints(deployment: Deployment) -> list[Finding]:
    """Find transmitters without linked people under their issuer, and endpoints that don't accept events."""
    found: list[Finding] = []
    for name, one in deployment.settings.signals.transmitters.items():
        if one.provider is None and not await users.has_identities(deployment.database, issuer=one.people_of):
            sentence = f"no one here is linked under {one.people_of}, so events from {name} have no effect"
            fix = f"correct signals.transmitters.{name}.identity_issuer, or let people sign in there once"
            found.append(note(CHECK, sentence, fix=fix))
    for one in await endpoints.list_endpoints(deployment.database, deployment.keys):
        if one.failure and not one.is_disabled:
            sentence = f"the endpoint {one.url} didn't accept the last event: {one.failure}"
            fix = "correct it there, then see token-vault webhooks failed, and resend"
            found.append(note("webhooks", sentence, fix=fix))
    return found
