"""Checks of the Auth0 interface: the address and issuer that Auth0's SDKs expect, and connection names without a
provider."""

from __future__ import annotations

from urllib.parse import urlsplit

from server.deployment import Deployment
from server.doctor.findings import Finding, note, ok, problem

CHECK = "auth0"


def check_auth0(deployment: Deployment) -> list[Finding]:
    """No findings if the interface is turned off."""
    settings = deployment.settings
    if not settings.auth0.enabled:
        return []
    return [*_check_address(deployment), *_check_names(deployment)] or [
        ok(
            CHECK,
            "Auth0's SDKs accept this vault's address and issuer, and every connection name belongs to a provider",
        )
    ]


def _check_address(deployment: Deployment) -> list[Finding]:
    found: list[Finding] = []
    parts = urlsplit(deployment.public_url)
    if parts.scheme != "https":
        sentence = "Auth0's SDKs build https:// addresses from a domain, and this vault's address is http"
        found.append(note(CHECK, sentence, fix="put a TLS proxy in front, and correct server.public_url"))
    if not deployment.issuer.endswith("/"):
        sentence = "most of Auth0's SDKs accept only an issuer with a slash at its end"
        found.append(note(CHECK, sentence, fix="set server.issuer_slash = true"))
    if parts.port is not None and parts.scheme == "https":
        sentence = "@auth0/nextjs-auth0 accepts no port in a domain"
        found.append(note(CHECK, sentence, fix="serve on port 443, or don't use that SDK"))
    return found


def _check_names(deployment: Deployment) -> list[Finding]:
    unknown = {
        name: provider
        for name, provider in deployment.settings.auth0.connections.items()
        if deployment.catalog.get(provider) is None
    }
    return [
        problem(
            CHECK,
            f"the connection {name} means {provider}, which isn't a provider here",
            fix=f"correct auth0.connections.{name}; token-vault providers list has the names",
        )
        for name, provider in unknown.items()
    ]
