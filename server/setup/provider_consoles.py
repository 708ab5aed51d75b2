"""The values to enter at a provider's console to use this vault with it. Texts only; nothing is sent.

From the providers' documentation, read on 2026-11-25 and not run: docs.slack.dev (installing-with-oauth,
using-token-rotation, using-pkce), developers.google.com (identity/protocols/oauth2).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from providers.definitions.model import Provider
    from providers.tools.spec import ToolSpec

GUIDED: Final = ("slack", "google")
_SCOPE: Final = "https://www.googleapis.com/auth/"
# the common name of a Google service, its API in the console's library, and the prefix of its scopes
_GOOGLE_PARTS: Final = (
    ("calendar", "Google Calendar API", f"{_SCOPE}calendar"),
    ("mail", "Gmail API", f"{_SCOPE}gmail"),
    ("files", "Google Drive API", f"{_SCOPE}drive"),
)
# Formats of client IDs, from the providers' documentation. IDs of services without one aren't checked.
_IDS: Final = {
    "google": re.compile(r"[\w.-]+\.apps\.googleusercontent\.com"),
    "slack": re.compile(r"\d{6,}\.\d{6,}"),
    "github": re.compile(r"(Iv|Ov)\w{1,2}\.?\w{10,40}|[0-9a-f]{20}"),
    "microsoft": re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
    "square": re.compile(r"(sandbox-)?sq0id[pb]-[\w-]+"),
}
_TITLES: Final = {
    "google": "Google",
    "slack": "Slack",
    "github": "GitHub",
    "microsoft": "Microsoft",
    "square": "Square",
}
_LOOKS: Final = {
    "google": "ends in .apps.googleusercontent.com",
    "slack": "is two numbers with a dot between them; the App ID begins with A0",
    "github": "begins with Iv or Ov; the App ID is a number",
    "microsoft": "is the Application (client) ID, such as 11111111-2222-3333-4444-555555555555",
    "square": "begins with sq0idp-",
}
_HOSTS: Final = {  # of token endpoints
    "oauth2.googleapis.com": "google",
    "slack.com": "slack",
    "github.com": "github",
    "login.microsoftonline.com": "microsoft",
    "connect.squareup.com": "square",
}
# Prefixes of secrets: what each is, and the service if it is a client secret.
_SECRETS: Final = (
    (re.compile(r"GOCSPX-"), "Google's client secret", "google"),
    (re.compile(r"(sandbox-)?sq0cs[pb]-"), "Square's application secret", "square"),
    (re.compile(r"xox|xapp-"), "a Slack token", ""),
    (re.compile(r"gh[opusr]_|github_pat_"), "a GitHub token", ""),
)
_UNKNOWN_ENDINGS: Final = frozenset({"test", "local", "internal", "lan", "home", "localdomain", "example", "invalid"})


@dataclass(frozen=True, slots=True)
class Guide:
    """The steps through a console. `client`: whether the vault authenticates with a secret or without one
    (`public`)."""

    provider: str
    redirect_uri: str
    scopes: tuple[str, ...]
    client: Literal["confidential", "public"]
    steps: tuple[str, ...]
    warnings: tuple[str, ...]
    manifest: str | None = None


def guide_for(provider: Provider, tools: Iterable[ToolSpec], *, public_url: str, is_loopback: bool) -> Guide:
    """The guide for the scopes that connecting this provider requests and that `tools` need."""
    if provider.credential is not None:
        steps = (f"Each person enters: {provider.credential.title}.", *(_steps_of(provider)))
        return Guide(provider.name, "", (), "public", steps, ())
    used = [spec.scopes for spec in tools if spec.provider == provider.name]
    scopes = sorted(provider.scope.default.union(*used))
    redirect_uri = f"{public_url}/connect/callback/{provider.name}"
    if provider.name in GUIDED:
        return guide(provider.name, redirect_uri=redirect_uri, scopes=scopes, is_loopback=is_loopback)
    console = provider.console
    return general(
        provider.name,
        console=None if console is None else console.url,
        steps=() if console is None else console.steps,
        redirect_uri=redirect_uri,
        scopes=scopes,
        has_secret=provider.needs_secret,
    )


def _steps_of(provider: Provider) -> Iterator[str]:
    """The person's first step at the service."""
    if provider.console is not None:
        yield f"They make it at {provider.console.url}"
        yield from provider.console.steps


def guide(provider: str, *, redirect_uri: str, scopes: Sequence[str], is_loopback: bool) -> Guide:
    """The guide for this provider; KeyError for one that has none."""
    match provider:
        case "slack":
            return _slack(redirect_uri, tuple(sorted(scopes)), is_loopback=is_loopback)
        case "google":
            return _google(redirect_uri, tuple(sorted(scopes)))
        case _:
            raise KeyError(provider)


def general(
    provider: str,
    *,
    console: str | None,
    steps: Sequence[str],
    redirect_uri: str,
    scopes: Sequence[str],
    has_secret: bool,
) -> Guide:
    """The guide for a service that is only known from its provider file."""
    words = {"{redirect_uri}": redirect_uri, "{scopes}": " ".join(sorted(scopes))}

    def fill_in(step: str) -> str:
        for word, value in words.items():
            step = step.replace(word, value)
        return step

    opened = "Register an OAuth app in the service's developer settings." if console is None else f"Open {console}"
    return Guide(
        provider,
        redirect_uri,
        tuple(sorted(scopes)),
        "confidential" if has_secret else "public",
        (opened, *map(fill_in, steps), "Copy the client ID and secret." if has_secret else "Copy the client ID."),
        ("These steps weren't tested against the live service; its pages may have changed.",),
    )


def _slack(redirect_uri: str, scopes: tuple[str, ...], *, is_loopback: bool) -> Guide:
    content = {
        "display_information": {"name": "Token Vault", "description": "Acts for you through your own token vault"},
        "oauth_config": {"redirect_urls": [redirect_uri], "scopes": {"user": list(scopes)}},
        "settings": {
            "org_deploy_enabled": False,
            "socket_mode_enabled": False,
            "token_rotation_enabled": True,
        },
    }
    rotation = (
        "You can't turn token rotation off again in that app. This vault requires it, so create a separate app for it."
    )
    made = (
        "Open https://api.slack.com/apps, choose Create New App, From a manifest, select your workspace, and "
        "paste this JSON:"
    )
    if not is_loopback:
        return Guide(
            "slack",
            redirect_uri,
            scopes,
            "confidential",
            (
                made,
                "Leave PKCE off: this app has a secret.",
                (
                    "Under Basic Information, App Credentials, copy Client ID and Client Secret (not "
                    "the Signing Secret)."
                ),
            ),
            (rotation,),
            json.dumps(content, indent=2),
        )
    return Guide(
        "slack",
        redirect_uri,
        scopes,
        "public",
        (
            made,
            "If Slack rejects the redirect URL, remove redirect_urls from the manifest and add it after step 3.",
            "Under OAuth & Permissions, turn on PKCE and check that the redirect URL is exactly the one above.",
            "Under Basic Information, App Credentials, copy the Client ID. This app has no secret.",
        ),
        (
            rotation,
            "Only Slack's support can turn PKCE off again, and PKCE apps get no bot on this machine.",
            (
                "Refresh tokens of such an app expire after 30 days, so you must reconnect then. The "
                "connection shows the date."
            ),
            "To avoid the 30-day limit, set an https server.public_url and run setup again.",
        ),
        json.dumps(content, indent=2),
    )


def _google(redirect_uri: str, scopes: tuple[str, ...]) -> Guide:
    warnings = [
        "While the app's status is Testing, Google ends each connection after 7 days. The connection shows the date.",
        "Once the app is in production, run this again with --published.",
        "While the app is in Testing, Google rejects accounts that aren't test users.",
    ]
    parts = [
        (part, api, [scope for scope in scopes if scope.startswith(beginning)])
        for part, api, beginning in _GOOGLE_PARTS
    ]
    used = [(part, api, its) for part, api, its in parts if its]
    rest = [scope for scope in scopes if not any(scope in its for _, _, its in used)]
    listed = [*((part, its) for part, _, its in used), *([("other", rest)] if rest else [])]
    further = "".join(f" Do the same for {part} with {api}." for part, api, _ in used[1:])
    host = urlsplit(redirect_uri).hostname or ""
    ending = host.rpartition(".")[2]
    if host != "localhost" and (ending in _UNKNOWN_ENDINGS or (ending.isdigit() and host != "127.0.0.1")):
        warnings.append(f"Google accepts localhost or a public domain name only; {host} is neither.")
    return Guide(
        "google",
        redirect_uri,
        scopes,
        "confidential",
        (
            "Open https://console.cloud.google.com and choose or create a project.",
            (f"Under APIs & Services, Library, find {used[0][1] if used else 'the API'} and choose Enable.{further}"),
            (
                "Under OAuth consent screen (Google Auth Platform), name the app and choose External (Internal "
                "in a company)."
            ),
            "Under Audience, Test users, add the Google account that you'll connect.",
            "Under Data Access, add the scopes that agents will use:"
            + "".join(f"\n   {part}: {' '.join(its)}" for part, its in listed),
            f"Under Clients, create a client of type Web application. Authorized redirect URIs: {redirect_uri}",
            "Copy the Client ID and Client secret. Google may not show the secret again.",
        ),
        tuple(warnings),
    )


def service_of(name: str, *, token_url: str, ships: bool) -> str:
    """The service that issues a provider's client IDs, by its token endpoint; "" for the operator's own files.

    `ships`: the provider file is one of ours.
    """
    return _HOSTS.get(urlsplit(token_url).hostname or "", name if ships else "")


def id_problem(service: str, client_id: str) -> str | None:
    """Why this can't be a client ID of that service (see `service_of`); None if it can be one."""
    if not client_id or not client_id.isprintable() or any(c.isspace() for c in client_id) or len(client_id) > 200:
        return "the client ID is empty or contains spaces: copy it again"
    for shape, what, _ in _SECRETS:
        if shape.match(client_id):
            return f"that's {what}; copy the client ID"
    owner = next((name for name, shape in _IDS.items() if shape.fullmatch(client_id)), None)
    if service in _IDS:
        if owner == service:
            return None
        return f"a client ID of {_TITLES[service]} {_LOOKS[service]}" if owner is None else _of_another(owner)
    return _of_another(owner) if service and owner in {"google", "slack", "square"} else None


def secret_problem(secret: str, *, service: str = "", client_id: str = "") -> str | None:
    """Why this can't be a client secret of that service; None if it can be one."""
    if not secret or not secret.isprintable() or any(c.isspace() for c in secret) or len(secret) > 500:
        return "the client secret is empty or contains spaces: copy it again"
    if _IDS["google"].fullmatch(secret):
        return "that's Google's client ID; copy the client secret"
    if secret == client_id:
        return "that's the client ID again; copy the client secret"
    if service == "microsoft" and _IDS["microsoft"].fullmatch(secret):
        return "that's the Secret ID; copy the secret's Value, which is shown only once"
    for shape, what, whose in _SECRETS:
        if shape.match(secret) and (not whose or service not in {"", whose}):
            return f"that's {what}; copy the client secret"
    return None


def _of_another(owner: str) -> str:
    return f"that's a client ID of {_TITLES[owner]}; copy the one of this service's app"
