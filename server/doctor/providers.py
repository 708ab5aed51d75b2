"""Checks of our registrations at the providers: https, client ID and secret, scopes, and their clock.

`server.doctor.authorize_page` checks the redirect URI and scopes at the provider. The token endpoint is called with a
code that can't exist: `invalid_client` means that it doesn't know our client, and `invalid_grant` (Slack:
`invalid_code`) that it accepted ID and secret. Nothing is used up or changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from providers.credentials.certificates import client_identity
from providers.definitions.model import BY_CERTIFICATE, Provider
from providers.oauth.secret_references import SecretUnavailable
from providers.outbound.addresses import is_loopback_host
from providers.outbound.messages import AddressRefused, HttpError, OutboundRequest
from server.connecting.provider_authorization import needs_https
from server.deployment import Deployment
from server.doctor.address import SKEW, instant
from server.doctor.authorize_page import check_authorize_page, fix_of_client, page_of, page_of_entered
from server.doctor.certificates import check_certificate
from server.doctor.credentials import check_credentials
from server.doctor.findings import Finding, note, ok, problem
from server.runtime.catalog import is_set_here
from server.secret_sources import SecretSources, is_reference
from vault import users
from vault.upkeep import census
from vault.upstream import UpstreamError

_NO_CODE: Final = "token-vault-doctor-no-such-code"
_NO_VERIFIER: Final = "token-vault-doctor-verifier-that-belongs-to-no-code"
_KNOWN: Final = frozenset({"invalid_grant", "invalid_code", "code_already_used", "bad_verification_code"})
_CLIENT: Final = frozenset({"invalid_client", "invalid_client_id", "bad_client_secret", "unauthorized_client"})
_REDIRECT: Final = frozenset({"redirect_uri_mismatch", "bad_redirect_uri"})


async def check_providers(deployment: Deployment) -> list[Finding]:
    """Check every provider that is set up or named in the settings, and the scopes that tools need from it."""
    findings: list[Finding] = []
    for provider in deployment.catalog:
        if provider.audience is not None:
            findings.append(ok(f"{provider.name}.audience", f"accepts this vault's own tokens for {provider.audience}"))
        elif provider.credential is not None:
            findings += await check_credentials(deployment, provider)
        elif provider.registration.client_id is not None or provider.name in deployment.settings.providers:
            findings += await check_provider(deployment, provider)
    if not findings:
        fix = "run token-vault providers setup slack (or google), or try --sandbox"
        findings.append(note("providers", "no provider is set up, so no accounts can be connected", fix=fix))
    return [*findings, *await _check_granted_scopes(deployment)]


async def check_provider(deployment: Deployment, provider: Provider) -> list[Finding]:
    """Check our registration with the provider itself: https, redirect URI, client ID and secret, and scopes."""
    if provider.credential is not None:
        return await check_credentials(deployment, provider)
    if provider.retired is not None:
        fix = f"remove providers.{provider.name}, and ask people to disconnect these accounts"
        return [note(f"{provider.name}.retired", provider.retired, fix=fix)]
    certificate = check_certificate(provider, now=int(time.time()))
    if not deployment.vault.upstreams[provider.name].is_configured:
        fix = (
            f"run token-vault providers setup {provider.name}, set it up at {page_of(deployment, provider)}, or set "
            f"providers.{provider.name}.client_id"
        )
        return [
            *certificate,
            _redirect_finding(deployment, provider),
            note(f"{provider.name}.client", "the client ID or secret isn't set", fix=fix, wrong="client"),
        ]
    return [
        *certificate,
        *await _check_secret(deployment, provider),
        *_https(deployment, provider),
        *await _check_redirect(deployment, provider),
        *await _check_reachable(deployment, provider),
        *_scopes(deployment, provider),
    ]


async def _check_secret(deployment: Deployment, provider: Provider) -> list[Finding]:
    """Check whether a secret that is kept elsewhere can be read."""
    reference = provider.registration.client_secret or ""
    if not is_set_here(deployment.settings, provider.name) or not is_reference(reference):
        return []
    check = f"{provider.name}.secret"
    try:
        await SecretSources(deployment.settings.secrets).read(reference)
    except SecretUnavailable as error:
        sentence, _, fix = error.description.rpartition("; ")
        return [problem(check, sentence or error.description, fix=fix or "check the sections secrets and providers")]
    return [ok(check, f"can be read: {reference}")]


def _redirect(deployment: Deployment, provider: Provider) -> str:
    return deployment.url(f"/connect/callback/{provider.name}")


def _redirect_finding(deployment: Deployment, provider: Provider) -> Finding:
    return ok(f"{provider.name}.redirect", f"must be registered there: {_redirect(deployment, provider)}")


async def _check_redirect(deployment: Deployment, provider: Provider) -> list[Finding]:
    """The redirect URI to compare, and the errors on the provider's own page."""
    redirect = _redirect(deployment, provider)
    objected = None
    if not needs_https(provider, deployment.public_url):  # already reported, with its fix
        objected = await check_authorize_page(deployment, provider, redirect=redirect)
    if objected is None or not objected.check.endswith(".redirect"):
        return [_redirect_finding(deployment, provider), *([] if objected is None else [objected])]
    return [objected]


def _https(deployment: Deployment, provider: Provider) -> Iterator[Finding]:
    if needs_https(provider, deployment.public_url):
        yield problem(
            f"{provider.name}.https",
            f"{provider.title} accepts an app with a client secret only with an https redirect URL",
            fix="set server.public_url to an https address, or use an app with PKCE and unset "
            f"providers.{provider.name}.client_secret",
        )


async def _check_reachable(deployment: Deployment, provider: Provider) -> list[Finding]:
    """Check whether it answers, its clock, and whether it accepts our client ID and secret."""
    check = f"{provider.name}.client"
    try:
        answer = await deployment.http.send(
            OutboundRequest(
                "GET",
                provider.hosts.token_url,
                peer=f"{provider.name}.doctor",
                policy=provider.registration.reach,
                identity=client_identity(provider.registration),
            )
        )
    except AddressRefused as error:
        sentence = f"{provider.title} is at an address that the vault doesn't connect to: {error.reason}"
        fix = f"list its host or network in providers.{provider.name}.private"
        if is_loopback_host(urlsplit(provider.hosts.token_url).hostname or ""):
            fix = "for a trial on this machine, set sandbox.loopback_upstreams = true"
        return [problem(check, sentence, fix=fix)]
    except HttpError as error:
        sentence = f"{provider.title} doesn't answer: {error.reason}"
        mine = deployment.settings.providers.get(provider.name)
        fix = f"check this machine's network access to {provider.hosts.token_url}"
        if provider.inputs and (entered := page_of_entered(deployment, provider)) is not None:
            fix += f", or correct its {' and '.join(provider.inputs)} at {entered}"
        if mine is not None and (mine.token_url or mine.issuer or mine.inputs):
            setting = "token_url" if mine.token_url else "issuer" if mine.issuer else "inputs"
            fix += f", or correct providers.{provider.name}.{setting}"
        if error.reason == "TLS failed":
            fix = f"name the file of its certificate authority in providers.{provider.name}.ca_file"
        return [problem(check, sentence, fix=fix)]
    found = [_client(deployment, provider, await _refusal(deployment, provider))]
    there = instant(answer.headers.get("date", ""))
    if there is not None and abs(time.time() - there) > SKEW:
        sentence = f"the clock of {provider.title} differs from this machine's by {abs(time.time() - there):.0f} s"
        found.append(problem("clock", sentence, fix="set this machine's clock with NTP"))
    return found


async def _refusal(deployment: Deployment, provider: Provider) -> str:
    """The error code with which it refuses an authorization code that it never issued."""
    try:
        await deployment.vault.upstreams[provider.name].redeem(
            code=_NO_CODE, redirect_uri=_redirect(deployment, provider), code_verifier=_NO_VERIFIER
        )
    except UpstreamError as error:
        return error.code
    return "accepted"


def _client(deployment: Deployment, provider: Provider, code: str) -> Finding:
    check, title = f"{provider.name}.client", provider.title
    if code in _KNOWN:
        is_by_certificate = provider.client_auth in BY_CERTIFICATE
        more = "" if provider.client_auth == "none" else " and certificate" if is_by_certificate else " and secret"
        return ok(check, f"{title} accepts our client ID{more}")
    if code in _CLIENT:
        proof = "certificate" if provider.client_auth in BY_CERTIFICATE else "secret"
        return problem(
            check,
            f"{title} rejects our client ID or {proof} ({code})",
            fix=fix_of_client(deployment, provider, f"client_id and its {proof}"),
            wrong="client",
        )
    if code in _REDIRECT:
        fix = f"register exactly {_redirect(deployment, provider)} there, or correct server.public_url"
        return problem(check, f"{title} doesn't know our redirect URL ({code})", fix=fix, wrong="redirect")
    if code == "temporarily_unavailable":
        return note(check, f"{title} couldn't report whether it knows this vault", fix="run doctor again")
    return note(check, f"{title} answered {code} to a made-up code", fix="check its documentation")


def _scopes(deployment: Deployment, provider: Provider) -> Iterator[Finding]:
    """Find tools that the operator's own limit always blocks."""
    limit = deployment.vault.policies[provider.name].operator_scopes
    if limit is None:
        return
    included = limit.union(*(provider.covers.get(scope, frozenset[str]()) for scope in limit))
    lacking = {
        spec.name: spec.scopes - included
        for spec in deployment.tools
        if spec.provider is not None
        and deployment.catalog.resolve(spec.provider)[0].name == provider.name
        and not spec.scopes <= included
    }
    if lacking:
        scopes = frozenset[str]().union(*lacking.values())
        say = problem if scopes & provider.scope.default else note  # an operator may not need more tools
        yield say(
            f"{provider.name}.scopes",
            f"{', '.join(sorted(lacking))} can never run: the setting excludes {' '.join(sorted(scopes))}",
            fix=f"add it to providers.{provider.name}.scopes, or skip the tool",
        )


async def _check_granted_scopes(deployment: Deployment) -> list[Finding]:
    """Find connections with fewer scopes than requested: the app may lack a scope, or the person may have left it
    out."""
    lacking: dict[tuple[str, str], list[census.GrantedScopes]] = {}
    for one in await census.count_granted(deployment.database):
        provider = deployment.catalog.get(one.provider)
        if provider is None:
            continue
        included = one.scopes.union(*(provider.covers.get(scope, frozenset[str]()) for scope in one.scopes))
        if missing := " ".join(sorted(provider.scope.default - included)):
            lacking.setdefault((one.provider, missing), []).append(one)
    return [await _lacks(deployment, *which, found) for which, found in lacking.items()]


async def _lacks(deployment: Deployment, provider: str, missing: str, found: Sequence[census.GrantedScopes]) -> Finding:
    first, others = found[0], sum(one.count for one in found) - 1
    owner = await users.get_user(deployment.database, first.user_id)
    who = f"{first.label} of {first.user_id if owner is None else owner.name}"
    have = f"{who} has" if not others else f"{who} and {others} other{'s' if others > 1 else ''} have"
    return note(
        f"{provider}.scopes",
        f"{have} not granted {missing}",
        fix=f"check that the app at {deployment.catalog.provider(provider).title} has them, then reconnect",
    )
