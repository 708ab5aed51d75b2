"""The life of a connection at the service itself: consent in a person's browser, code, refresh, narrowing, revocation.

The same steps as `providers.check.check` takes at the simulator, as far as a real service lets one: nothing is re-used
on purpose, no time passes, no fault is made. What it prints holds no token.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from providers.definitions.model import Provider
from providers.oauth.client import AuthlibUpstream
from providers.outbound.client import Outbound
from vault.upstream import Downscope, NotSent, RefreshOutcome, Refused, RevokeOutcome, Rotated, Silent, UpstreamError


@dataclass(frozen=True, slots=True)
class Seen:
    """What one step came to."""

    step: str
    outcome: Literal["ok", "failed", "skipped"]
    note: str = ""


async def live_test(
    provider: Provider, *, redirect_uri: str, ask: Callable[[str], Awaitable[str]], outbound: Outbound | None = None
) -> list[Seen]:
    """Connect, look, refresh, narrow, revoke. `ask` shows an address and returns where the browser ended."""
    async with outbound or Outbound() as http:
        return await _live(AuthlibUpstream(provider, http), provider, redirect_uri=redirect_uri, ask=ask)


async def _live(
    upstream: AuthlibUpstream, provider: Provider, *, redirect_uri: str, ask: Callable[[str], Awaitable[str]]
) -> list[Seen]:
    if not upstream.is_configured:
        return [Seen("consent", "failed", f"set up first: token-vault providers setup {provider.name}")]
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
    url = upstream.authorization_url(
        redirect_uri=redirect_uri, state=state, scopes=provider.scope.default, code_verifier=verifier
    )
    back = {name: values[0] for name, values in parse_qs(urlsplit((await ask(url)).strip()).query).items()}
    if back.get("state") != state or "code" not in back:
        return [Seen("consent", "failed", back.get("error", "that address carries no code of this attempt"))]
    try:
        answer = await upstream.redeem(code=back["code"], redirect_uri=redirect_uri, code_verifier=verifier)
    except UpstreamError as error:
        return [Seen("code", "failed", f"{error.code}: {error.description}")]
    account = "" if answer.account is None else answer.account.label
    granted = "not said" if answer.scopes is None else " ".join(sorted(answer.scopes))
    lacking = frozenset[str]() if answer.scopes is None else provider.scope.default - answer.scopes
    seen = [
        Seen("consent", "ok", f"account {account}"),
        Seen("scopes", "ok", granted + (f"; not granted: {' '.join(sorted(lacking))}" if lacking else "")),
        Seen("lifetime", "ok", "not said" if answer.expires_in is None else f"{answer.expires_in} s"),
    ]
    access, refresh = answer.access_token, answer.refresh_token
    if provider.refresh_tokens == "never":
        seen.append(Seen("refresh", "skipped" if refresh is None else "failed", "the file says that there are none"))
    elif refresh is None:
        seen.append(Seen("refresh", "failed", "no refresh token came"))
    else:
        outcome = await upstream.refresh(refresh)
        seen.append(_judged("refresh", outcome))
        if isinstance(outcome, Rotated):
            access, refresh = outcome.answer.access_token, outcome.answer.refresh_token or refresh
            seen.append(await _narrowed(upstream, provider, refresh))
    ended = await upstream.revoke(refresh_token=refresh, access_token=access)
    if ended is RevokeOutcome.UNSUPPORTED:
        seen.append(Seen("revoke", "skipped", "there is no way: end it on the service's own page"))
    else:
        seen.append(Seen("revoke", "ok" if ended is RevokeOutcome.REVOKED else "failed", ended.value))
    return seen


async def _narrowed(upstream: AuthlibUpstream, provider: Provider, refresh: str) -> Seen:
    facts, wanted = provider.downscope, frozenset(sorted(provider.scope.default)[:1])
    if facts.mode is not Downscope.REFRESH_SCOPE or facts.destructive:
        return Seen("narrow", "skipped", f"by {facts.mode.value}")
    outcome = await upstream.refresh(refresh, wanted)
    if not isinstance(outcome, Rotated):
        return _judged("narrow", outcome)
    said = outcome.answer.scopes
    narrow = said is not None and said <= wanted | provider.always_granted
    return Seen("narrow", "ok" if narrow else "failed", "not said" if said is None else " ".join(sorted(said)))


def _judged(step: str, outcome: RefreshOutcome) -> Seen:
    match outcome:
        case Rotated(answer):
            return Seen(step, "ok", "rotates" if answer.refresh_token is not None else "the refresh token stays")
        case Refused():
            return Seen(step, "failed", f"refused: {outcome.code} {outcome.description}".strip())
        case NotSent() | Silent():
            return Seen(step, "failed", outcome.reason)
