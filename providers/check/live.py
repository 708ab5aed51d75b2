"""A connection's life at the service itself: consent in a person's browser, code, refresh, narrowing, revocation.

The same steps as `providers.check.check` at the simulator, as far as a real service allows: no deliberate reuse, no
waiting, no faults. The output contains no token.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from providers.definitions.model import Provider
from providers.oauth.client import OAuthUpstream
from providers.outbound.client import Outbound
from vault.upstream import (
    Downscope,
    NotSent,
    ProbeAnswer,
    ProbeOutcome,
    RefreshOutcome,
    Refusal,
    RevokeOutcome,
    Rotation,
    Silent,
    UpstreamError,
)


@dataclass(frozen=True, slots=True)
class LiveStep:
    """The result of one step."""

    step: str
    outcome: Literal["ok", "failed", "skipped"]
    note: str = ""


async def live_test(
    provider: Provider, *, redirect_uri: str, ask: Callable[[str], Awaitable[str]], outbound: Outbound | None = None
) -> list[LiveStep]:
    """Connect, look up the account, refresh, narrow, revoke. `ask` shows an address and returns the final address of
    the browser."""
    async with outbound or Outbound() as http:
        return await _live(OAuthUpstream(provider, http), provider, redirect_uri=redirect_uri, ask=ask)


async def _live(
    upstream: OAuthUpstream, provider: Provider, *, redirect_uri: str, ask: Callable[[str], Awaitable[str]]
) -> list[LiveStep]:
    if not upstream.is_configured:
        return [LiveStep("consent", "failed", f"set it up first: token-vault providers setup {provider.name}")]
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
    url = upstream.authorization_url(
        redirect_uri=redirect_uri, state=state, scopes=provider.scope.default, code_verifier=verifier
    )
    back = {name: values[0] for name, values in parse_qs(urlsplit((await ask(url)).strip()).query).items()}
    if back.get("state") != state or "code" not in back:
        return [LiveStep("consent", "failed", back.get("error", "that address has no code from this attempt"))]
    try:
        answer = await upstream.redeem(
            code=back["code"], redirect_uri=redirect_uri, code_verifier=verifier, state=state
        )
    except UpstreamError as error:
        return [LiveStep("code", "failed", f"{error.code}: {error.description}")]
    account = "" if answer.account is None else answer.account.label
    granted = "not stated" if answer.scopes is None else " ".join(sorted(answer.scopes))
    lacking = frozenset[str]() if answer.scopes is None else provider.scope.default - answer.scopes
    seen = [
        LiveStep("consent", "ok", f"account {account}"),
        LiveStep("scopes", "ok", granted + (f"; not granted: {' '.join(sorted(lacking))}" if lacking else "")),
        LiveStep("lifetime", "ok", "not stated" if answer.expires_in is None else f"{answer.expires_in} s"),
    ]
    access, refresh = answer.access_token, answer.refresh_token
    if provider.refresh_tokens == "never":
        seen.append(
            LiveStep("refresh", "skipped" if refresh is None else "failed", "the provider issues no refresh tokens")
        )
    elif refresh is None:
        seen.append(
            LiveStep("refresh", "failed", "the answer has no refresh token: check the offline scope and parameters")
        )
    else:
        outcome = await upstream.refresh(refresh)
        seen.append(_step_of("refresh", outcome))
        if isinstance(outcome, Rotation):
            access, refresh = outcome.answer.access_token, outcome.answer.refresh_token or refresh
            seen.append(await _try_narrowing(upstream, provider, refresh))
    ended = await upstream.revoke(refresh_token=refresh, access_token=access)
    if ended is RevokeOutcome.UNSUPPORTED:
        seen.append(
            LiveStep("revoke", "skipped", "the vault can't revoke here: end the access on the service's own page")
        )
    else:
        said = ended.value if isinstance(ended, RevokeOutcome) else ended.reason
        seen.append(LiveStep("revoke", "ok" if ended is RevokeOutcome.REVOKED else "failed", said))
        probed = await upstream.probe(
            refresh_token=refresh, access_token=access, is_fresh=True, is_revoked=ended is RevokeOutcome.REVOKED
        )
        seen.append(_step_of_probe(probed))
    return seen


def _step_of_probe(probed: ProbeAnswer) -> LiveStep:
    ways = ", ".join(probed.ways)
    match probed.outcome:
        case ProbeOutcome.DEAD:
            return LiveStep("probe", "ok", f"the tokens no longer work, by {ways}")
        case ProbeOutcome.UNPROVEN:
            return LiveStep("probe", "skipped", "the file has no probe for each token")
        case ProbeOutcome.ALIVE:
            return LiveStep(
                "probe", "failed", f"a token still works, by {ways}: end the access on the service's own page"
            )
        case ProbeOutcome.SILENT:
            return LiveStep("probe", "failed", f"the probe got no clear answer by {ways}")


async def _try_narrowing(upstream: OAuthUpstream, provider: Provider, refresh: str) -> LiveStep:
    facts, wanted = provider.downscope, frozenset(sorted(provider.scope.default)[:1])
    if facts.mode is not Downscope.REFRESH_SCOPE or facts.destructive:
        return LiveStep("narrow", "skipped", f"by {facts.mode.value}")
    outcome = await upstream.refresh(refresh, wanted)
    if not isinstance(outcome, Rotation):
        return _step_of("narrow", outcome)
    said = outcome.answer.scopes
    narrow = said is not None and said <= wanted | provider.always_granted
    return LiveStep("narrow", "ok" if narrow else "failed", "not stated" if said is None else " ".join(sorted(said)))


def _step_of(step: str, outcome: RefreshOutcome) -> LiveStep:
    match outcome:
        case Rotation(answer):
            return LiveStep(step, "ok", "rotates" if answer.refresh_token is not None else "the refresh token stays")
        case Refusal():
            return LiveStep(step, "failed", f"refused: {outcome.code} {outcome.description}".strip())
        case NotSent() | Silent():
            return LiveStep(step, "failed", outcome.reason)
