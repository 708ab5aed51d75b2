"""Mistakes of new users: where each is noticed, and which fix the first message must name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.first_hour.consoles import Manifest
from tests.first_hour.internet import VAULT
from tests.first_hour.journey import Journey, Slips
from tests.support.network.tls import Authority, make_authority

Way = Literal["machine", "proxy"]


@dataclass(frozen=True)
class Mistake:
    """`stops` is the step whose message first shows the mistake; `fix` is what this message must name."""

    way: Way
    slips: Callable[[], Slips]
    stops: str
    fix: tuple[str, ...]
    behind: dict[str, float] = field(default_factory=dict[str, float])


def _redirect_of(change: Callable[[str], str]) -> Callable[[Manifest], None]:
    def edit(manifest: Manifest) -> None:
        manifest["oauth_config"]["redirect_urls"] = [change(url) for url in manifest["oauth_config"]["redirect_urls"]]

    return edit


def _rotation_off(manifest: Manifest) -> None:
    manifest["settings"]["token_rotation_enabled"] = False


def _as_a_bot(manifest: Manifest) -> None:
    scopes = manifest["oauth_config"]["scopes"]
    scopes["bot"] = scopes.pop("user")


async def _port_taken(journey: Journey) -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 8765)
    journey.stack.push_async_callback(_end, server)


async def _end(server: asyncio.Server) -> None:
    server.close()


async def _copied_key(journey: Journey) -> None:
    """A key file that was copied from another machine, with the mode that copying gave it."""
    key = journey.data / "master.key"
    key.write_text("A" * 43 + "=\n", encoding="utf-8")
    key.chmod(0o644)


async def _clock(journey: Journey) -> None:
    journey.internet.clock = 3600.0


def _own_certificate(folder: Path) -> Authority:
    """The proxy presents a self-signed certificate."""
    made = folder / "proxy"
    made.mkdir()
    return make_authority(made, VAULT)


def _slack(**slips: object) -> Callable[[], Slips]:
    return lambda: Slips(providers=("slack",), **slips)


def _google(**slips: object) -> Callable[[], Slips]:
    return lambda: Slips(providers=("google",), **slips)


MISTAKES: dict[str, Mistake] = {
    "the redirect at Slack without its path": Mistake(
        "machine",
        _slack(slack_console={"edit": _redirect_of(lambda url: url.removesuffix("/connect/callback/slack"))}),
        "doctor",
        ("doesn't know our redirect URL", "enter exactly http://localhost:8765/connect/callback/slack"),
    ),
    "the redirect at Google with a slash at the end": Mistake(
        "machine",
        _google(google_console={"types": lambda url: url + "/"}),
        "doctor",
        ("doesn't know our redirect URL", "enter exactly http://localhost:8765/connect/callback/google"),
    ),
    "PKCE not turned on at Slack": Mistake(
        "machine",
        _slack(slack_console={"forgets_pkce": True}),
        "doctor",
        ("doesn't know our redirect URL", "turn on PKCE there"),
    ),
    "the App ID instead of the Client ID": Mistake(
        "machine", _slack(client_id=lambda handed: handed.app_id), "setup slack", ("the App ID begins with A0",)
    ),
    "client id and secret swapped": Mistake(
        "machine",
        _google(client_id=lambda handed: handed.client_secret, client_secret=lambda handed: handed.client_id),
        "setup google",
        ("Google's client secret; copy the client ID",),
    ),
    "a blank inside the secret": Mistake(
        "machine",
        _google(client_secret=lambda handed: f"{handed.client_secret[:10]} {handed.client_secret[10:]}"),
        "setup google",
        ("client secret is empty or contains spaces: copy it again",),
    ),
    "token rotation left off": Mistake(
        "machine",
        _slack(slack_console={"edit": _rotation_off}),
        "connect slack",
        ("turn on Token rotation there, under OAuth & Permissions",),
    ),
    "scopes of a bot instead of the user's": Mistake(
        "machine",
        _slack(slack_console={"edit": _as_a_bot}),
        "doctor",
        ("user scopes", "channels:history channels:read chat:write reactions:write search:read users:read"),
    ),
    "the Calendar API not enabled": Mistake(
        "machine",
        _google(google_console={"forgets": frozenset({"api"})}),
        "call google",
        ("that Google API (Calendar, Gmail, Drive) is off in the app's Google Cloud project",),
    ),
    "not a test user": Mistake(
        "machine",
        _google(google_console={"forgets": frozenset({"tester"})}),
        "connect google",
        ("under Audience, Test users", "developer-approved testers"),
    ),
    "the port taken by another program": Mistake(
        "machine", _slack(before_doctor=_port_taken), "doctor", ("stop it, or choose another server.port",)
    ),
    "a key file that everybody can read": Mistake(
        "machine", _slack(before_doctor=_copied_key), "doctor", ("chmod 600", "master.key")
    ),
    "a clock that is an hour off": Mistake(
        "machine",
        _slack(before_doctor=_clock),
        "doctor",
        ("the clock of Slack is", "set this machine's clock with NTP"),
    ),
    "the client told of another data directory": Mistake(
        "machine",
        _slack(first_window={"TOKEN_VAULT_DATA": "/HOME/elsewhere"}),
        "call slack",
        ("This is the vault of the data directory", "`token-vault client-config` with the same --data"),
    ),
    "a plain http address": Mistake(
        "proxy",
        _slack(public_url=lambda block: block.replace("https://", "http://")),
        "setup slack",
        ("plain http works on loopback only", "https"),
    ),
    "the host of the agent's document not let in": Mistake(
        "proxy",
        _slack(agents=lambda block: block.replace("claude.ai", "other.example")),
        "sign in",
        ("to add its host to registration.allowed_hosts",),
    ),
    "the Signing Secret instead of the Client Secret": Mistake(
        "proxy",
        _slack(client_secret=lambda handed: handed.other_secret),
        "doctor",
        ("rejects our client ID or secret (bad_client_secret)", "correct them: token-vault providers setup slack"),
    ),
    "a proxy that changes Host": Mistake(
        "proxy",
        _slack(proxy_changes=lambda data: data.replace(f"Host: {VAULT}".encode(), b"Host: 127.0.0.1:8765")),
        "doctor",
        ("configure the proxy to pass Host unchanged, or add what it sends to server.allowed_hosts",),
    ),
    "a proxy with a certificate of its own": Mistake(
        "proxy",
        _slack(proxy_certificate=_own_certificate),
        "doctor",
        ("this machine doesn't trust its issuer", "SSL_CERT_FILE"),
    ),
}
