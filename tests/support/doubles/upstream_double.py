"""A provider in this process, with rotation classes, scripted misbehavior, and records.

The records show what really happened at the provider, so that a test can compare that with what the vault believes.
Only the simulator speaks HTTP.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from vault.upstream import (
    Account,
    NotSent,
    ProbeAnswer,
    ProbeOutcome,
    RefreshOutcome,
    Refusal,
    RevokeAnswer,
    RevokeOutcome,
    Rotation,
    RotationMode,
    Silent,
    TokenAnswer,
    UpstreamError,
)


@dataclass
class Family:
    """One consent at the provider: its live refresh token and what it allows."""

    account: Account
    scopes: frozenset[str]
    refresh_token: str | None
    spent: set[str] = field(default_factory=set[str])
    before: str | None = None  # used last: within the grace it may be used again
    is_alive: bool = True


@dataclass(frozen=True)
class Send:
    """One refresh as the provider saw it."""

    refresh_token: str
    scopes: frozenset[str] | None
    outcome: str


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one refresh. `after`: it happens after the provider has rotated the token."""

    before: RefreshOutcome | None = None
    after: RefreshOutcome | None = None
    scopes: frozenset[str] | None = None  # the provider reports and issues these instead
    hides_scope: bool = False


INVALID_CLIENT = Fault(before=Refusal("invalid_client", "unknown client", ends_grant=False))
UNREACHABLE = Fault(before=NotSent("connection refused"))
BUSY = Fault(before=NotSent("429", retry_after=30, is_limited=True))
LOST_REQUEST = Fault(before=Silent("timeout"))
LOST_ANSWER = Fault(after=Silent("connection reset"))


class UpstreamDouble:
    """An UpstreamOAuth with records. `gate` holds every refresh at the provider until it is set."""

    def __init__(self, rotation: RotationMode = RotationMode.NONE, *, lifetime: int = 3600) -> None:
        self.rotation = rotation
        self.lifetime = lifetime
        self.faults: deque[Fault | None] = deque()
        self.sends: list[Send] = []
        self.revocations: list[tuple[str | None, str | None]] = []
        self.revoked_accounts: list[str | None] = []
        self.revoke_outcomes: deque[RevokeAnswer] = deque()
        self.issued: dict[str, frozenset[str]] = {}  # access token -> scopes that it really has
        self.families: list[Family] = []
        self.gate: asyncio.Event | None = None
        self.arrived = asyncio.Event()
        self.probes: list[tuple[str | None, str | None, bool]] = []
        self.were_revoked: list[bool] = []  # for each probe, whether the token was revoked
        self.probe_outcomes: deque[ProbeOutcome] = deque()  # used instead of the recorded state
        self.lies = False  # reports a revocation, and does nothing
        self.revoke_gate: asyncio.Event | None = None
        self.revoke_arrived = asyncio.Event()
        self.is_configured = True
        self.identity_error: str | None = None  # the error code for every lookup of the account
        self.ends_everything = False  # one revocation ends everything that the person granted the app
        self.has_grace = False  # repeats the answer for the previous token
        self.padding: tuple[int, int] = (0, 0)  # minimum length of access and refresh tokens
        self._numbers = itertools.count(1)

    def authorization_url(
        self,
        *,
        redirect_uri: str,
        state: str,
        scopes: frozenset[str],
        code_verifier: str,
        login_hint: str | None = None,
    ) -> str:
        raise NotImplementedError

    async def redeem(
        self,
        *,
        code: str,
        redirect_uri: str,
        code_verifier: str,
        state: str = "",
        keep: Callable[[TokenAnswer], Awaitable[None]] | None = None,
    ) -> TokenAnswer:
        raise NotImplementedError

    async def identify(self, access_token: str, answer: Mapping[str, object]) -> Account:
        if self.identity_error is not None:
            raise UpstreamError(self.identity_error, "as the test wants it")
        return self.families[-1].account

    async def narrow(self, access_token: str, scopes: frozenset[str], *, item: str | None = None) -> RefreshOutcome:
        if access_token not in self.issued:
            return Refusal("invalid_token", "unknown", ends_grant=False)
        if not scopes <= self.issued[access_token]:
            return Refusal("invalid_scope", "too wide", ends_grant=False)
        return Rotation(TokenAnswer(self._access(scopes), scopes=scopes, expires_in=self.lifetime))

    def consent(self, account: str, scopes: frozenset[str], *, refreshable: bool = True) -> TokenAnswer:
        """What the provider answers after a person allowed these scopes."""
        refresh_token = self._name("rt") if refreshable else None
        family = Family(Account(account, f"{account}@example.com"), scopes, refresh_token)
        self.families.append(family)
        return TokenAnswer(
            self._access(scopes),
            refresh_token,
            scopes=scopes,
            expires_in=self.lifetime if refreshable else None,
            account=family.account,
        )

    async def refresh(
        self, refresh_token: str, scopes: frozenset[str] | None = None, *, item: str | None = None
    ) -> RefreshOutcome:
        fault = self.faults.popleft() if self.faults else None
        self.arrived.set()
        if self.gate is not None:
            await self.gate.wait()
        else:
            await asyncio.sleep(0)
        outcome = self._answer(refresh_token, scopes, fault or Fault())
        self.sends.append(Send(refresh_token, scopes, type(outcome).__name__))
        return outcome

    def _answer(self, refresh_token: str, scopes: frozenset[str] | None, fault: Fault) -> RefreshOutcome:
        if fault.before is not None:
            return fault.before
        family = next((one for one in self.families if refresh_token in (one.refresh_token, *one.spent)), None)
        if family is None or not family.is_alive:
            return Refusal("invalid_grant", "unknown token", ends_grant=True)
        if refresh_token == family.before and self.has_grace:
            return Rotation(
                TokenAnswer(
                    self._access(family.scopes), family.refresh_token, scopes=family.scopes, expires_in=self.lifetime
                )
            )
        if refresh_token != family.refresh_token:
            family.is_alive = self.rotation is not RotationMode.REVOKES
            return Refusal("invalid_grant", "token was used before", ends_grant=True)
        successor: str | None = None
        if self.rotation is not RotationMode.NONE:
            family.spent.add(refresh_token)
            family.before = refresh_token
            family.refresh_token = successor = self._name("rt")
        carried = fault.scopes or scopes or family.scopes
        answer = TokenAnswer(
            self._access(carried),
            successor,
            scopes=None if fault.hides_scope else carried,
            expires_in=self.lifetime,
        )
        return fault.after or Rotation(answer)

    async def revoke(
        self, *, refresh_token: str | None, access_token: str | None, account: str | None = None
    ) -> RevokeAnswer:
        self.revocations.append((refresh_token, access_token))
        self.revoked_accounts.append(account)
        self.revoke_arrived.set()
        if self.revoke_gate is not None:
            await self.revoke_gate.wait()
        outcome = self.revoke_outcomes.popleft() if self.revoke_outcomes else RevokeOutcome.REVOKED
        for family in self.families:
            is_meant = self.ends_everything or refresh_token in (family.refresh_token, *family.spent)
            if outcome is RevokeOutcome.REVOKED and is_meant and not self.lies:
                family.is_alive = False
        return outcome

    async def probe(
        self, *, refresh_token: str | None, access_token: str | None, is_fresh: bool, is_revoked: bool
    ) -> ProbeAnswer:
        self.probes.append((refresh_token, access_token, is_fresh))
        self.were_revoked.append(is_revoked)
        await asyncio.sleep(0)
        if self.probe_outcomes:
            return ProbeAnswer(self.probe_outcomes.popleft(), ("identity",))
        works = any(one.is_alive and refresh_token == one.refresh_token for one in self.families)
        return ProbeAnswer(ProbeOutcome.ALIVE if works else ProbeOutcome.DEAD, ("identity",))

    def _access(self, scopes: frozenset[str]) -> str:
        token = self._name("at")
        self.issued[token] = scopes
        return token

    def _name(self, kind: str) -> str:
        return f"CANARY-{kind}-{next(self._numbers)}".ljust(self.padding[kind == "rt"], "x")
