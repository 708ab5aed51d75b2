"""Stand-ins for the providers' consoles: they take what `providers setup` printed and issue a client id and secret.

The person does only the steps that are printed. What a console refuses comes from reading, not running, on 2026-11-25:
docs.slack.dev/reference/app-manifest, docs.slack.dev/authentication/using-pkce,
developers.google.com/identity/protocols/oauth2/web-server, support.google.com/cloud/answer/15549945.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from providers.simulator.local_server import Simulator

Manifest = dict[str, Any]
_SLACK_KEYS = {"display_information", "oauth_config", "settings", "features", "_metadata"}
_LOCAL = {"localhost", "127.0.0.1"}


class ConsoleRefused(AssertionError):
    """The console shows an error instead of an app."""


@dataclass(frozen=True)
class AppCredentials:
    """What a console shows at the end."""

    client_id: str
    client_secret: str = field(repr=False)
    app_id: str = ""
    other_secret: str = field(default="", repr=False)  # shown next to the right one: Slack's Signing Secret


@dataclass
class SlackConsole:
    """api.slack.com/apps and the person using it. The slips are this person's mistakes."""

    simulator: Simulator
    edit: Callable[[Manifest], None] = lambda manifest: None
    forgets_pkce: bool = False

    def follow(self, printed: str) -> AppCredentials:
        """Create an app from the printed manifest and do the printed steps."""
        found = re.search(r"^\{\n.*?^\}$", printed, flags=re.MULTILINE | re.DOTALL)
        if found is None:
            raise ConsoleRefused("no manifest was printed")
        manifest: Manifest = json.loads(found[0])
        self.edit(manifest)
        _check_manifest(manifest)
        scopes, settings = manifest["oauth_config"]["scopes"], manifest["settings"]
        is_public = re.search(r"^\d+\. .*turn on PKCE", printed, flags=re.MULTILINE) is not None
        handed = AppCredentials(
            client_id=f"{secrets.randbelow(10**13)}.{secrets.randbelow(10**13)}",
            client_secret=secrets.token_hex(16),
            app_id=f"A0{secrets.token_hex(5).upper()}",
            other_secret=secrets.token_hex(16),
        )
        self.simulator.control(
            "app",
            client_id=handed.client_id,
            client_secret=handed.client_secret,
            name=manifest["display_information"]["name"],
            redirect_uris=manifest["oauth_config"].get("redirect_urls", []),
            is_public=is_public and not self.forgets_pkce,
            user_scopes=scopes.get("user", []),
            rotates=settings.get("token_rotation_enabled", False),
        )
        return handed


def _check_manifest(manifest: Manifest) -> None:
    if unknown := manifest.keys() - _SLACK_KEYS:
        raise ConsoleRefused(f"invalid manifest: {unknown}")
    name = manifest.get("display_information", {}).get("name", "")
    if not 0 < len(name) <= 35 or len(manifest["display_information"].get("description", "")) > 140:
        raise ConsoleRefused("invalid manifest: display_information")
    config = manifest["oauth_config"]
    for url in config.get("redirect_urls", []):
        parts = urlsplit(url)
        if not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOCAL)) or parts.fragment:
            raise ConsoleRefused(f"invalid manifest: redirect_urls {url}")
    if not set(config["scopes"]) <= {"user", "bot"} or not any(config["scopes"].values()):
        raise ConsoleRefused("invalid manifest: scopes")
    if not all(isinstance(value, bool) for value in manifest["settings"].values()):
        raise ConsoleRefused("invalid manifest: settings")


@dataclass
class GoogleConsole:
    """console.cloud.google.com and the person using it."""

    simulator: Simulator
    account: str = "alice"
    types: Callable[[str], str] = lambda redirect: redirect
    forgets: frozenset[str] = frozenset()  # subset of: api, tester

    def follow(self, printed: str) -> AppCredentials:
        """Do the printed steps with a new project."""
        redirect = re.search(r"Web application. Authorized redirect URIs: (\S+)$", printed, flags=re.MULTILINE)
        if redirect is None:
            raise ConsoleRefused("no redirect address was printed")
        typed = self.types(redirect[1])
        _check_redirect(typed)
        has_api = re.search(r"find Google Calendar API and choose Enable", printed) is not None
        has_tester = re.search(r"Test users, add the Google account", printed) is not None
        number = secrets.randbelow(10**12)
        handed = AppCredentials(
            client_id=f"{number}-{secrets.token_hex(16)}.apps.googleusercontent.com",
            client_secret=f"GOCSPX-{secrets.token_urlsafe(21)}",
        )
        self.simulator.control(
            "app",
            client_id=handed.client_id,
            client_secret=handed.client_secret,
            name="Token Vault",
            redirect_uris=[typed],
            api_enabled=has_api and "api" not in self.forgets,
            test_users=[self.account] if has_tester and "tester" not in self.forgets else [],
        )
        return handed


def _check_redirect(url: str) -> None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOCAL):
        raise ConsoleRefused("Invalid Redirect: must use https")
    if parts.fragment or parts.username or "*" in url:
        raise ConsoleRefused("Invalid Redirect: must not contain a fragment, a user or a wildcard")
    if host not in _LOCAL and ("." not in host or host.rpartition(".")[2] in {"test", "local", "internal", "lan"}):
        raise ConsoleRefused("Invalid Redirect: must end with a public top-level domain")
