"""Drives a connection's whole life by a provider file: consent, code, refresh, narrowing, lifetimes, revocation.

The simulator takes nothing from the file but its addresses: its behavior is defined separately
(`providers.simulator.families`). A pass therefore shows that the file agrees with that description, not that either
matches the live service; `--live` asks the service itself. Used by `token-vault providers test` and by tests.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from pydantic import JsonValue

from providers.check.trial import (
    SLACK,
    StepFailed,
    StepResult,
    StepSkipped,
    Trial,
    asked_of,
    in_words,
    is_known,
    is_near,
    mode_for,
    needs_refresh,
)
from providers.definitions.model import BY_CERTIFICATE, Provider
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from providers.outbound.messages import HttpError
from providers.simulator.accounts import PEOPLE
from providers.simulator.families.answers import facts_of, place
from providers.simulator.local_server import Simulator, running_simulator
from providers.simulator.modes import SERVED
from vault.upstream import (
    Downscope,
    ItemLimit,
    NotSent,
    ProbeOutcome,
    Refusal,
    RevokeAnswer,
    RevokeOutcome,
    Rotation,
    RotationMode,
    Silent,
    TokenAnswer,
    UpstreamError,
)

_NAMED: Final = re.compile(r"\{[^{}]*\}")


async def _consent(trial: Trial) -> str:
    """Ask, redeem, look up the account, and check what was granted and for how long."""
    provider, mode = trial.provider, trial.mode
    answer = await trial.connect()
    _check_account(trial, answer)
    _check_scopes(trial, answer, asked_of(provider))
    _check_expiry(trial, answer)
    issues = provider.refresh_tokens == "issued"
    if issues and answer.refresh_token is None:
        raise StepFailed("expected a refresh token but got none; is an offline scope or parameter missing?")
    if not issues and mode.has_refresh:
        raise StepFailed("refresh_tokens: the provider issues refresh tokens, but the file says that it doesn't")
    if not await trial.is_alive(answer.access_token):
        raise StepFailed("the access token doesn't work")
    missing = {name for name in provider.response.keep if name not in answer.metadata}
    if missing:
        raise StepFailed(f"response.keep: the answer has no value for {', '.join(sorted(missing))}; correct the paths")
    ends = mode.rules.refresh_lifetime if mode.shape.grant_expiry_name is not None else None
    if ends is not None and not is_near(answer.grant_expires_in, ends):
        raise StepFailed(
            f"response.grant_expires: the grant ends in {ends} s, but the file reads {answer.grant_expires_in}"
        )
    return (
        "the provider issues no refresh token, so the access token is kept"
        if trial.provider.refresh_tokens == "never"
        else ""
    )


def _check_account(trial: Trial, answer: TokenAnswer) -> None:
    found = answer.account
    if found is None:
        raise StepFailed("identity.source: the file doesn't say where the account is identified")
    if trial.provider.identity.source == "none":
        if trial.mode.identity and is_known(trial, "identity"):
            raise StepFailed("identity.source: the answer identifies the account, but the file doesn't use it")
        return
    facts = facts_of(PEOPLE["alice"])
    expected = tuple(text.format_map(facts) for text in trial.mode.account)
    if (found.id, found.label) != expected:
        raise StepFailed(f"identity: the account is {expected}, but the file reads {(found.id, found.label)}")


def _check_scopes(trial: Trial, answer: TokenAnswer, asked: frozenset[str]) -> None:
    provider, shape = trial.provider, trial.mode.shape
    if trial.mode.fixed_scopes is not None or shape.scope == "absent":
        if answer.scopes is not None and provider.scope.app_level:
            raise StepFailed(
                "scope.app_level: the scopes are set on the app, but the file reads scopes from the answer"
            )
        if trial.mode.fixed_scopes is not None and not provider.scope.app_level:
            raise StepFailed(
                "scope.app_level: set it to true: the scopes are set on the app, and users aren't asked for them"
            )
        return
    always = provider.always_granted
    if answer.scopes is None:
        raise StepFailed("response.scope: the answer lists the granted scopes, but the file doesn't find them")
    if answer.scopes - always != asked - always:
        raise StepFailed(
            f"scope: the vault asked for {sorted(asked - always)}, but the file reads {sorted(answer.scopes - always)}"
        )


def _check_expiry(trial: Trial, answer: TokenAnswer) -> None:
    expires, life = trial.provider.expires, trial.mode.rules.access_lifetime
    if trial.mode.long_lived is not None:
        life = 60 * 86400
        if trial.provider.long_lived is None:
            raise StepFailed(
                "long_lived: a new token lives an hour, but the file doesn't exchange it for a long-lived one"
            )
    if trial.mode.shape.expiry == "absent":
        if answer.expires_in is not None:
            raise StepFailed("expires.path: the answer doesn't say when the token expires, but the file reads a time")
        if trial.provider.refresh_tokens == "issued" and expires.default > life + SLACK:
            raise StepFailed(f"expires.default: tokens live {life} s, but the file says {expires.default}")
        return
    if not is_near(answer.expires_in, life):
        raise StepFailed(f"expires: the token lives {life} s, but the file reads {answer.expires_in}")


async def _partial(trial: Trial) -> str:
    """The person unticks a scope."""
    asked = asked_of(trial.provider)
    if trial.mode.fixed_scopes is not None or trial.mode.shape.scope == "absent" or len(asked) < 2:
        raise StepSkipped("the consent page has no scope that a person can clear")
    kept = frozenset(sorted(asked)[:1])
    ticked = kept | trial.provider.scope.offline | trial.provider.scope.identity
    try:
        answer = await trial.connect(ticked=ticked - (trial.mode.shape.unsaid and frozenset()))
    except StepFailed as error:
        raise StepFailed(f"with a scope cleared: {error}") from error
    _check_scopes(trial, answer, kept)
    return f"granted {len(kept)} of {len(asked)}"


async def _refresh(trial: Trial) -> str:
    """A refresh returns tokens that work, and the same facts as the code's answer."""
    if trial.provider.refresh_tokens == "access_token":
        return await _renewal(trial)
    needs_refresh(trial)
    first = await trial.connect()
    second = await trial.renew(first.refresh_token)
    _check_scopes(trial, second, asked_of(trial.provider))
    _check_expiry(trial, second)
    if not await trial.is_alive(second.access_token):
        raise StepFailed("the new access token doesn't work")
    ends = trial.provider.rotation.ends_access_token
    if ends == await trial.is_alive(first.access_token):
        raise StepFailed(
            "rotation.ends_access_token: a refresh "
            + ("leaves" if ends else "ends")
            + " the previous access token, but the file says otherwise"
        )
    third = await trial.renew(second.refresh_token or first.refresh_token)
    return "rotates" if third.refresh_token is not None else "the refresh token stays"


async def _renewal(trial: Trial) -> str:
    """The access token renews itself until it has ended."""
    first = await trial.connect()
    trial.simulator.advance(2 * 86400)
    second = await trial.renew(first.access_token)
    _check_expiry(trial, second)
    if second.refresh_token != second.access_token or not await trial.is_alive(second.access_token):
        raise StepFailed("the renewed access token doesn't work")
    trial.simulator.advance((trial.provider.expires.idle or 0) + 86400)
    outcome = await trial.refresh(second.refresh_token)
    if not isinstance(outcome, Refusal) or not outcome.ends_grant:
        raise StepFailed(f"errors.ends_grant: a refresh with an expired access token is {in_words(outcome)}")
    return "the access token renews itself"


async def _reuse(trial: Trial) -> str:
    """Use a refresh token a second time: the outcome must match the file's rotation mode."""
    needs_refresh(trial)
    facts = trial.provider.rotation
    first = await trial.connect()
    second = await trial.renew(first.refresh_token)
    newest = second.refresh_token or first.refresh_token
    trial.simulator.advance(max(0, facts.grace - 2) if facts.mode is RotationMode.GRACE else 3600)
    again = await trial.refresh(first.refresh_token)
    match facts.mode:
        case RotationMode.NONE | RotationMode.GRACE:
            if not isinstance(again, Rotation):
                raise StepFailed(f"rotation.mode: {facts.mode}, but a used refresh token is {in_words(again)}")
        case RotationMode.STRICT:
            if not isinstance(again, Refusal) or not again.ends_grant:
                raise StepFailed(f"rotation.mode: strict, but a used refresh token is {in_words(again)}")
            if not isinstance(await trial.refresh(newest), Rotation):
                raise StepFailed("rotation.mode: strict, but reuse also ended the newest refresh token")
        case RotationMode.REVOKES:
            is_certain = trial.mode.rotation_known and is_known(trial, "rotation")
            if is_certain and isinstance(again, Rotation):
                raise StepFailed("rotation.mode: revokes, but a used refresh token is accepted again")
            if isinstance(again, Refusal) and not again.ends_grant:
                raise StepFailed(
                    f"errors.ends_grant: an ended grant is reported as {again.code}, which the file doesn't list"
                )
            if is_certain and isinstance(await trial.refresh(newest), Rotation):
                raise StepFailed("rotation.mode: revokes, but the newest refresh token still works after reuse")
            return "" if is_certain else "the file cites no source, so the strictest mode is assumed"
    return ""


async def _narrow(trial: Trial) -> str:
    """A token with fewer scopes, if the file supports it; requesting one must have no other effect."""
    facts = trial.provider.downscope
    if facts.mode is Downscope.NONE:
        narrows = trial.mode.rules.narrowing == "real" and trial.mode.has_refresh and is_known(trial, "narrowing")
        if trial.mode.downscope != "none" or narrows:
            raise StepFailed("downscope.mode: none, but the provider can issue narrower tokens")
        raise StepSkipped("the vault's own rules limit the scopes")
    asked = asked_of(trial.provider)
    wanted = frozenset(sorted(asked)[:1])
    first = await trial.connect()
    if facts.mode is Downscope.REFRESH_SCOPE:
        return await _narrow_by_refresh(trial, first, wanted=wanted)
    item = None
    if facts.items is ItemLimit.REQUIRED:
        path = next(iter(facts.item), "").replace("{owner}", "octo").replace("{repo}", "hello")
        item = f"{trial.base}/api{_NAMED.sub('1', path)}"
    outcome = await trial.upstream().narrow(first.access_token, wanted, item=item)
    if not isinstance(outcome, Rotation):
        raise StepFailed(f"downscope.mode: {facts.mode}, but a request for fewer scopes is {in_words(outcome)}")
    return f"{facts.mode}: {' '.join(sorted(outcome.answer.scopes or wanted))}"


async def _narrow_by_refresh(trial: Trial, first: TokenAnswer, *, wanted: frozenset[str]) -> str:
    needs_refresh(trial)
    outcome = await trial.refresh(first.refresh_token, wanted)
    if not isinstance(outcome, Rotation):
        raise StepFailed(f"downscope.mode: refresh_scope, but a request for fewer scopes is {in_words(outcome)}")
    always = trial.provider.always_granted
    said = outcome.answer.scopes
    is_told = trial.mode.shape.scope != "absent" or trial.mode.status
    if is_told and (said is None or said - always != wanted - always):
        raise StepFailed(f"downscope: the vault asked for {sorted(wanted)}, but got {sorted(said or ())}")
    full = await trial.renew(outcome.answer.refresh_token or first.refresh_token)
    shrunk = full.scopes is not None and full.scopes - always != asked_of(trial.provider) - always
    is_gone = not trial.provider.rotation.ends_access_token and not await trial.is_alive(first.access_token)
    harmed = shrunk or is_gone
    if harmed and not trial.provider.downscope.destructive:
        raise StepFailed(
            "downscope.destructive: a request for fewer scopes shrank the grant, but the file doesn't say so"
        )
    if trial.provider.downscope.destructive and not harmed:
        raise StepFailed(
            "downscope.destructive: a request for fewer scopes does no harm, but the file says that it does"
        )
    return "the request would shrink the grant, so the vault never sends it" if harmed else "by refresh"


async def _lifetimes(trial: Trial) -> str:
    """The grant lives as long as the file says, without a refresh and in total."""
    needs_refresh(trial)
    expires, rules = trial.provider.expires, trial.mode.rules
    for name, told, real in (
        ("grant", expires.grant, rules.refresh_lifetime),
        ("idle", expires.idle, rules.refresh_idle),
    ):
        said = trial.mode.shape.grant_expiry_name is not None and name == "grant"
        if told is None and real is not None and not said:
            raise StepFailed(f"expires.{name}: the grant expires after {real} s, but the file doesn't say so")
        if told is not None and real is not None and abs(told - real) > 86400:
            raise StepFailed(f"expires.{name}: the grant expires after {real} s, but the file says {told}")
        if told is not None and real is None:
            raise StepFailed(f"expires.{name}: the grant doesn't expire this way, but the file says {told} s")
    ends = min((end for end in (expires.grant, expires.idle) if end is not None), default=None)
    if ends is None:
        raise StepSkipped("the file states no time after which the grant expires")
    first = await trial.connect()
    trial.simulator.advance(ends - 86400 if ends > 172_800 else ends // 2)
    newest = (await trial.renew(first.refresh_token)).refresh_token or first.refresh_token
    trial.simulator.advance((expires.idle or expires.grant or 0) + 86400)
    if isinstance(await trial.refresh(newest), Rotation):
        raise StepFailed(f"expires: the grant lives longer than the file's {ends} s")
    return f"{ends // 86400} days"


async def _errors(trial: Trial) -> str:
    """A wrong secret is a fault of our registration, not of the grant; a rate limit differs from an outage."""
    first = await trial.connect()
    if trial.provider.refresh_tokens == "access_token":
        return ""
    if trial.provider.refresh_tokens == "never":
        refused = await trial.refresh("no-refresh-token")
        if not isinstance(refused, Refusal) or refused.ends_grant:
            raise StepFailed(f"a refresh without a refresh token is {in_words(refused)}")
        return ""
    token = first.refresh_token or ""
    if trial.provider.client_auth != "none":
        blamed = await trial.upstream(secret="wrong").refresh(token)
        if not isinstance(blamed, Refusal) or blamed.ends_grant:
            raise StepFailed(f"a wrong client secret is {in_words(blamed)}")
    dead = await trial.refresh("no-such-refresh-token-0123456789")
    if not isinstance(dead, Refusal) or not dead.ends_grant:
        raise StepFailed(
            f"errors.ends_grant: a refresh of an ended grant is {in_words(dead)}, which the file doesn't list"
        )
    await _words(trial, token)
    for kind, meaning in (("rate_limited", NotSent), ("status", Silent)):
        trial.simulator.fault(f"{trial.face}.token.refresh", kind)
        outcome = await trial.refresh(token)
        if not isinstance(outcome, meaning):
            raise StepFailed(f"a fault ({kind}) is {in_words(outcome)}")
    await trial.renew(token)
    return ""


async def _words(trial: Trial, token: str) -> None:
    """The provider's own codes for a rate limit and for an outage at the token endpoint."""
    shape = trial.mode.shape
    for name, code, meaning in (("busy", trial.mode.busy, NotSent), ("unknown_outcome", trial.mode.outage, Silent)):
        if code is None:
            continue
        body: dict[str, JsonValue] = {} if shape.ok_flag is None else {shape.ok_flag: False}
        place(body, shape.error_names[0], code)
        status = 400 if shape.ok_flag is None else 200
        trial.simulator.fault(
            f"{trial.face}.token.refresh", "status", status=status, body=json.dumps(body), retry_after=None
        )
        outcome = await trial.refresh(token)
        if not isinstance(outcome, meaning):
            raise StepFailed(f"errors.{name}: {code} is {in_words(outcome)}")


async def _end(trial: Trial, answer: TokenAnswer) -> RevokeAnswer:
    """The provider's answers when it is asked to end a grant."""
    account = None if answer.account is None else answer.account.id
    return await trial.upstream().revoke(
        refresh_token=answer.refresh_token, access_token=answer.access_token, account=account
    )


async def _failing_revocation(trial: Trial) -> None:
    """A refusal with status 200 isn't a success."""
    flag = trial.mode.shape.ok_flag
    if flag is None:
        return
    first = await trial.connect()
    body = json.dumps({flag: False, "error": "internal_error"})
    trial.simulator.fault(f"{trial.face}.revoke", "status", status=200, body=body, times=2)
    outcome = await _end(trial, first)
    if outcome is not RevokeOutcome.FAILED:
        raise StepFailed("response.ok_flag: a revocation that fails with status 200 counts as done")


async def _lie(trial: Trial) -> None:
    """A provider that falsely reports a revocation is detected, if the file has a way to probe."""
    flag, first = trial.mode.shape.ok_flag, await trial.connect()
    body = "{}" if flag is None else json.dumps({flag: True})
    trial.simulator.fault(
        f"{trial.face}.revoke", "status", status=200, body=body, times=len(trial.provider.revoke.tokens)
    )
    tokens = {"refresh_token": first.refresh_token, "access_token": first.access_token}
    await _end(trial, first)
    probed = await trial.upstream().probe(**tokens, is_fresh=True, is_revoked=True)
    trial.simulator.control("clear_faults")
    if probed.outcome in (ProbeOutcome.DEAD, ProbeOutcome.SILENT):
        raise StepFailed(f"revoke.probe: the probe reports {probed.outcome}, although the provider revoked nothing")


async def _revoke(trial: Trial) -> str:
    """The grant ends to the extent that the file states, and the provider agrees."""
    provider, ways = trial.provider, trial.mode.revoking
    if provider.hosts.revoke_url is None:
        if ways.exists and is_known(trial, "revocation"):
            raise StepFailed("hosts.revoke_url: the provider has this endpoint, but the file doesn't list it")
        raise StepSkipped(
            "the file has no revoke_url" if ways.exists else "the provider has no endpoint for revocations"
        )
    if not ways.exists:
        raise StepFailed("hosts.revoke_url: the provider has no endpoint for revocations")
    first = await trial.connect()
    outcome = await _end(trial, first)
    if outcome is RevokeOutcome.UNSUPPORTED and provider.client_auth == "none":
        raise StepSkipped("a revocation needs the client secret, which this app doesn't have")
    if outcome is not RevokeOutcome.REVOKED:
        raise StepFailed(f"revoke: the provider's answer counts as {outcome}, but it should be revoked")
    probed = await trial.upstream().probe(
        refresh_token=first.refresh_token, access_token=first.access_token, is_fresh=True, is_revoked=True
    )
    usable = first.refresh_token is not None and isinstance(await trial.refresh(first.refresh_token), Rotation)
    alive = await trial.is_alive(first.access_token)
    if usable and alive:
        raise StepFailed("revoke: both tokens still work afterwards")
    if provider.revoke.ends_grant is True and (usable or alive):
        raise StepFailed("revoke.ends_grant: a token of the grant still works, but the file says that the grant ends")
    if provider.revoke.ends_grant is False and not usable and not alive:
        raise StepFailed("revoke.ends_grant: the whole grant has ended, but the file says that it stays")
    if provider.revoke.each and (usable or alive):
        raise StepFailed("revoke.each: one of the tokens still works")
    if probed.outcome is ProbeOutcome.DEAD and (usable or alive):
        raise StepFailed("revoke.probe: the probe reports that the grant has ended, but one of its tokens still works")
    if probed.outcome is ProbeOutcome.SILENT:
        raise StepFailed(f"revoke.probe: the probe got no clear answer by {', '.join(probed.ways)}")
    await _lie(trial)
    left = [kind for kind, lives in (("refresh", usable), ("access", alive)) if lives]
    if left and left[0] in ways.takes and trial.mode.rules.revoke == "token":
        raise StepFailed(f"revoke.each: the {left[0]} token still works, although the provider would end it")
    await _failing_revocation(trial)
    return f"the {left[0]} token still works" if left else "both tokens end"


STEPS: Final[Sequence[tuple[str, Callable[[Trial], Awaitable[str]]]]] = (
    ("consent", _consent),
    ("partial consent", _partial),
    ("refresh", _refresh),
    ("re-use", _reuse),
    ("narrow", _narrow),
    ("lifetimes", _lifetimes),
    ("errors", _errors),
    ("revoke", _revoke),
)


async def findings_of(
    provider: Provider, simulator: Simulator, outbound: Outbound, *, mode: str
) -> AsyncGenerator[StepResult]:
    """One step of one file after the other; each starts from a clean simulator."""
    if provider.client_auth in BY_CERTIFICATE:
        provider = provider.model_copy(update={"client_auth": "client_secret_post"})
        yield StepResult("certificate", "skipped", "the simulator has no TLS, so a secret replaces the certificate")
    trial = Trial(provider, mode, SERVED[mode], simulator, outbound)
    for name, step in STEPS:
        simulator.reset()
        try:
            found = StepResult(name, "ok", await step(trial))
        except StepSkipped as reason:
            found = StepResult(name, "skipped", str(reason))
        except StepFailed as failure:
            found = StepResult(name, "failed", str(failure))
        except (HttpError, UpstreamError) as error:
            found = StepResult(name, "failed", str(error))
        yield found


async def examine(provider: Provider, simulator: Simulator, outbound: Outbound, *, mode: str) -> list[StepResult]:
    """All steps of one file."""
    return [found async for found in findings_of(provider, simulator, outbound, mode=mode)]


async def examine_all(
    providers: Sequence[Provider],
    *,
    mode: str | None = None,
    tell: Callable[[str, int, int | None], None] = lambda step, done, total: None,
) -> list[tuple[Provider, str, list[StepResult]]]:
    """Several files in turn against one simulator; also as an app without a secret, if there is one.

    `tell` learns which file is being tested, how many were, and of how many.
    """
    found: list[tuple[Provider, str, list[StepResult]]] = []
    async with running_simulator() as simulator, Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        for number, provider in enumerate(providers):
            tell(f"Testing {provider.name}", number, len(providers))
            name = mode_for(provider, mode)
            findings = await examine(provider, simulator, outbound, mode=name)
            public = f"{name}-pkce"
            if provider.public_client is not None and public in SERVED:
                again = await examine(provider.as_public_client(), simulator, outbound, mode=public)
                findings += [replace(one, step=f"{one.step} (no secret)") for one in again]
            found.append((provider, name, findings))
    return found
