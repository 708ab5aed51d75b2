"""Requests a provider's authorization page like a signed-out browser, and reads its errors.

This is the only place where a provider checks our redirect URI and scopes before a person is involved. Google redirects
to an error page with the code in `authError`; Slack shows the error on the page. Nothing is granted. A provider may
report errors only after someone signs in, so the absence of errors proves nothing.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Iterator
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from providers.definitions.model import Provider
from providers.outbound.messages import HttpError, OutboundRequest, OutboundResponse
from server.connecting.provider_errors import FIXES, fix_for
from server.deployment import Deployment
from server.doctor.findings import Finding, note, ok, problem
from server.live_providers import registered_in

LIMIT: Final = 2_000_000  # bytes of a sign-in page
_SENTENCES: Final = {
    "did not match any configured URIs": "bad_redirect_uri",
    "Invalid permissions requested": "invalid_scope_requested",
    "Invalid requested permissions": "invalid_scope_requested",
}
_REDIRECT: Final = frozenset({"redirect_uri_mismatch", "bad_redirect_uri"})
_SCOPES: Final = frozenset({"invalid_scope", "invalid_scope_requested", "no_scopes"})
_CLIENT: Final = frozenset({"invalid_client", "invalid_client_id", "deleted_client", "unauthorized_client"})
_CODES: Final = frozenset(FIXES) | {"deleted_client"}
_WORD: Final = re.compile(r"[a-z]+(?:_[a-z]+)+")


async def check_authorize_page(deployment: Deployment, provider: Provider, *, redirect: str) -> Finding | None:
    """The errors on the page; None if it couldn't be requested."""
    name, title = provider.name, provider.title
    everything = provider.scope.default.union(*_of_tools(deployment, provider))
    try:
        code = objection(await _ask(deployment, provider, redirect=redirect, scopes=provider.scope.default))
        if code is None and everything != provider.scope.default:
            further = objection(await _ask(deployment, provider, redirect=redirect, scopes=everything))
            if further in _SCOPES:
                asked = " ".join(sorted(everything - provider.scope.default))
                fix = f"add these user scopes to the app at {title}, or skip those tools: {asked}"
                sentence = f"the {title} app isn't allowed to request all scopes that tools use"
                return note(f"{name}.scopes", sentence, fix=fix, wrong="scopes")
    except HttpError:
        return None
    if code is None:
        sentence = f"must be registered there: {redirect} ({title} raised no objection before sign-in)"
        return ok(f"{name}.redirect", sentence)
    if code in _REDIRECT:
        fix = (
            f"enter exactly {redirect} in its console (token-vault providers setup {name} --show lists the steps), or "
            "correct server.public_url"
        )
        if provider.public_client is not None and redirect.startswith("http:"):
            fix += "; and turn on PKCE there, because without PKCE it accepts https only"
        return problem(f"{name}.redirect", f"{title} doesn't know our redirect URL ({code})", fix=fix, wrong="redirect")
    if code in _SCOPES:
        asked = " ".join(sorted(everything))
        fix = f"add these user scopes to the app at {title}: {asked}"
        sentence = f"the {title} app isn't allowed to request its scopes ({code})"
        return problem(f"{name}.scopes", sentence, fix=fix, wrong="scopes")
    if code in _CLIENT:
        fix = fix_of_client(deployment, provider, "client_id")
        return problem(f"{name}.client", f"{title} doesn't know our client ID ({code})", fix=fix, wrong="client")
    fix = fix_for(code, name=name, title=title, redirect=redirect)
    return problem(f"{name}.authorize", f"{title} would reject everyone who connects ({code})", fix=fix)


def page_of(deployment: Deployment, provider: Provider) -> str:
    """The page where an admin sets up the provider in the browser."""
    return deployment.url(f"/administration/providers/{provider.name}")


def page_of_entered(deployment: Deployment, provider: Provider) -> str | None:
    """That page if our registration was entered there, in which case the settings aren't the cause."""
    is_entered = registered_in(deployment.settings, deployment.live.current, provider.name) == "browser"
    return page_of(deployment, provider) if is_entered else None


def fix_of_client(deployment: Deployment, provider: Provider, what: str) -> str:
    """How to correct our registration where it is stored. `what` is its part in the settings."""
    entered = page_of_entered(deployment, provider)
    if entered is not None:
        return f"enter the client ID and secret again at {entered}"
    return f"correct providers.{provider.name}.{what}: token-vault providers setup {provider.name}"


def _of_tools(deployment: Deployment, provider: Provider) -> Iterator[frozenset[str]]:
    for spec in deployment.tools:
        if spec.provider is not None and deployment.catalog.resolve(spec.provider)[0].name == provider.name:
            yield spec.scopes


async def _ask(
    deployment: Deployment, provider: Provider, *, redirect: str, scopes: frozenset[str]
) -> OutboundResponse:
    url = deployment.vault.upstreams[provider.name].authorization_url(
        redirect_uri=redirect,
        state=secrets.token_urlsafe(16),
        scopes=scopes,
        code_verifier=secrets.token_urlsafe(48),
    )
    return await deployment.http.send(
        OutboundRequest(
            "GET",
            url,
            headers={"Accept": "text/html"},
            peer=f"{provider.name}.doctor",
            max_bytes=LIMIT,
            policy=provider.registration.reach,
        )
    )


def objection(answer: OutboundResponse) -> str | None:
    """The error code in an authorization page's answer; None if the person can continue."""
    found = [*_in_location(answer.headers.get("location", "")), *_in_page(answer)]
    return found[0] if found else None


def _in_location(location: str) -> Iterator[str]:
    for name, value in parse_qsl(urlsplit(location).query):
        if name == "error":
            yield from _codes(value)
        elif name == "authError":
            yield from _codes(_decode(value))


def _in_page(answer: OutboundResponse) -> Iterator[str]:
    """The scripts of a sign-in page may contain any word, so only whole sentences count there."""
    text = answer.body.decode(errors="replace")
    for sentence, code in _SENTENCES.items():
        if sentence in text:
            yield code
    if answer.status >= 400:
        yield from _codes(text)


def _codes(text: str) -> Iterator[str]:
    return (word for word in _WORD.findall(text) if word in _CODES)


def _decode(value: str) -> str:
    try:
        return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).decode(errors="replace")
    except (binascii.Error, ValueError):
        return ""
