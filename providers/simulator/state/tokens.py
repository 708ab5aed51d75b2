"""Token families of one face: issue, refresh with rotation, grace and reuse detection, expire, revoke.

Pure bookkeeping in memory; `now` comes in. Independent of HTTP, a provider's error codes, and clients' secrets. Labels
(`slack-1:r0`, `slack-1:a2`) are what the books show in place of tokens.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from providers.simulator.rules import FaceRules, RotationRule

Kind = Literal["user", "bot"]
Mint = Callable[[Literal["access", "refresh"], Kind], str]


def fingerprint(token: str) -> str:
    """The books' record of a token: enough to compare, useless as a token."""
    return hashlib.sha256(token.encode()).hexdigest()[:24]


@dataclass(slots=True)
class Family:
    """Everything that one consent issued, through all its refreshes."""

    label: str
    client_id: str
    account: str
    kind: Kind
    scopes: frozenset[str]
    created_at: float
    used_at: float
    generation: int = 0
    ended: str | None = None  # why it is dead
    access_issued: int = 0
    refresh_issued: int = 0


@dataclass(slots=True)
class AccessToken:
    label: str
    family: Family
    scopes: frozenset[str]
    expires_at: float
    revoked: bool = False
    item: str | None = None  # the only item that it is limited to
    parent: str | None = None  # the label of the token that it was derived from


@dataclass(slots=True)
class SimulatedRefreshToken:
    label: str
    family: Family
    generation: int
    expires_at: float | None = None
    revoked: bool = False
    spent_at: float | None = None
    answer: SimulatedTokens | None = field(
        default=None, repr=False
    )  # the answer to its use, for a grace period that repeats it
    successor: SimulatedRefreshToken | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class SimulatedTokens:
    """The new tokens of one answer."""

    family: Family
    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    scopes: frozenset[str]
    expires_at: float
    access_label: str
    refresh_label: str | None


@dataclass(frozen=True, slots=True)
class RefreshAnswer:
    """An accepted refresh and how it was accepted."""

    issued: SimulatedTokens
    outcome: Literal["rotated", "kept", "resent", "sibling"]
    presented: SimulatedRefreshToken


class PresentedTokenRefused(Exception):
    """The refresh token, or the request for it, is invalid. `presented` is None for a value that was never issued."""

    def __init__(self, reason: str, presented: SimulatedRefreshToken | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.presented = presented


class TokenStore:
    """All tokens of one face."""

    def __init__(self, *, face: str, rules: FaceRules, mint: Mint) -> None:
        self.rules = rules
        self.omit_refresh_tokens = 0  # this many of the next answers have no refresh token; -1 for all
        self.refresh_lifetimes: dict[str, int] = {}  # by client: seconds from the issue of each refresh token
        self.endless: set[str] = set()  # clients whose access tokens do not expire: Slack apps without rotation
        self.families: list[Family] = []
        self._face = face
        self._mint = mint
        self._access: dict[str, AccessToken] = {}
        self._refresh: dict[str, SimulatedRefreshToken] = {}

    def open_family(
        self, *, client_id: str, account: str, kind: Kind, scopes: frozenset[str], with_refresh: bool, now: float
    ) -> SimulatedTokens:
        """The tokens of a redeemed authorization code."""
        label = f"{self._face}-{len(self.families) + 1}"
        family = Family(label, client_id, account, kind, scopes, created_at=now, used_at=now)
        self.families.append(family)
        refresh = self._new_refresh(family, now=now) if with_refresh and not self._omits() else None
        self._drop_oldest(family)
        return self._issue(family, scopes, refresh, now=now)

    def refresh(
        self, value: str, *, client_id: str, scopes: frozenset[str] | None, now: float, rotates: bool = True
    ) -> RefreshAnswer:
        """Use a refresh token. Raises RefreshRefused; a refusal for its scope or client doesn't use it up. `rotates`
        False: the answer has no new one, whatever the rules are.
        """
        token = self._refresh.get(fingerprint(value))
        if token is None:
            raise PresentedTokenRefused("unknown")
        family = token.family
        self._end_if_old(family, now=now)
        if family.client_id != client_id:
            raise PresentedTokenRefused("other_client", token)
        if family.ended is not None:
            raise PresentedTokenRefused(family.ended, token)
        if token.revoked:
            raise PresentedTokenRefused("revoked", token)
        if token.expires_at is not None and now >= token.expires_at:
            raise PresentedTokenRefused("expired", token)
        wanted = self._narrow(family, scopes, token)
        if token.spent_at is not None and (rotates or not self._in_grace(token.spent_at, now=now)):
            return self._reuse(token, wanted, spent_at=token.spent_at, now=now)
        if self.rules.rotation is RotationRule.NONE or not rotates or self._omits():
            family.used_at = now
            return RefreshAnswer(self._issue(family, wanted, None, now=now), "kept", token)
        token.spent_at = now
        family.generation = token.generation + 1
        return RefreshAnswer(self._issue_successor(token, wanted, now=now), "rotated", token)

    def lengthen(self, token: AccessToken, *, seconds: int, now: float, is_renewal: bool = False) -> SimulatedTokens:
        """Another access token of the same family with a longer life; the presented one ends soon if it was short."""
        issued = self._issue(token.family, token.scopes, None, now=now)
        self._access[fingerprint(issued.access_token)].expires_at = now + seconds
        if not is_renewal:
            token.expires_at = min(token.expires_at, now + 60)
        return replace(issued, expires_at=now + seconds)

    def derive(self, parent: AccessToken, scopes: frozenset[str], *, item: str | None) -> SimulatedTokens:
        """A token with less authority, for an access token; it ends with its parent and uses up no token."""
        family = parent.family
        value = self._mint("access", family.kind)
        label = f"{family.label}:a{family.access_issued}"
        family.access_issued += 1
        self._access[fingerprint(value)] = AccessToken(
            label, family, scopes, expires_at=parent.expires_at, item=item, parent=parent.label
        )
        return SimulatedTokens(
            family=family,
            access_token=value,
            refresh_token=None,
            scopes=scopes,
            expires_at=parent.expires_at,
            access_label=label,
            refresh_label=None,
        )

    def find_access(self, value: str) -> AccessToken | None:
        """The access token with this value, whatever its state; None when it was never issued here."""
        return self._access.get(fingerprint(value))

    def find_refresh(self, value: str) -> SimulatedRefreshToken | None:
        """The refresh token with this value, whatever its state."""
        return self._refresh.get(fingerprint(value))

    def is_dead(self, token: AccessToken) -> bool:
        """Whether it was revoked, alone or with its family. Expiry is another question."""
        return token.revoked or token.family.ended is not None

    def end_family(self, family: Family, reason: str) -> None:
        """End every token of a family."""
        if family.ended is None:
            family.ended = reason

    def revoke(self, token: AccessToken | SimulatedRefreshToken, *, now: float) -> None:
        """End this token; with the last live one its family is over."""
        token.revoked = True
        if not self.live_refresh_tokens(token.family) and not self.live_access_tokens(token.family, now=now):
            self.end_family(token.family, "revoked")

    def live_refresh_tokens(self, family: Family) -> list[SimulatedRefreshToken]:
        """The refresh tokens of a family that would be accepted."""
        live = family.ended is None
        return [
            token
            for token in self._refresh.values()
            if live and token.family is family and not token.revoked and token.spent_at is None
        ]

    def live_access_tokens(self, family: Family, *, now: float) -> list[AccessToken]:
        """The access tokens of a family that would be accepted."""
        live = family.ended is None
        return [
            token
            for token in self._access.values()
            if live and token.family is family and not token.revoked and now < token.expires_at
        ]

    def live_families(self, *, account: str, client_id: str) -> list[Family]:
        """The families that this person's consents to this client opened and that are not over."""
        return [
            family
            for family in self.families
            if family.account == account and family.client_id == client_id and family.ended is None
        ]

    def access_tokens(self) -> Iterator[AccessToken]:
        """Every access token ever issued."""
        return iter(self._access.values())

    def _omits(self) -> bool:
        if self.omit_refresh_tokens > 0:
            self.omit_refresh_tokens -= 1
            return True
        return self.omit_refresh_tokens < 0

    def _narrow(self, family: Family, scopes: frozenset[str] | None, token: SimulatedRefreshToken) -> frozenset[str]:
        if not scopes or self.rules.narrowing == "ignored":
            return family.scopes
        if not scopes <= family.scopes or (self.rules.narrowing == "refused" and scopes != family.scopes):
            raise PresentedTokenRefused("scope", token)
        if self.rules.narrowing == "sticky" and scopes != family.scopes:
            family.scopes = scopes
            self._end_access(family)
        return scopes

    def _in_grace(self, spent_at: float, *, now: float) -> bool:
        return self.rules.rotation is RotationRule.GRACE and now - spent_at <= self.rules.grace_seconds

    def _reuse(
        self, token: SimulatedRefreshToken, wanted: frozenset[str], *, spent_at: float, now: float
    ) -> RefreshAnswer:
        family = token.family
        if self._in_grace(spent_at, now=now):
            if self.rules.grace_answer == "sibling":
                return RefreshAnswer(self._issue_successor(token, wanted, now=now), "sibling", token)
            unused = token.successor is not None and token.successor.spent_at is None
            if token.answer is not None and unused:
                return RefreshAnswer(token.answer, "resent", token)
        revokes = self.rules.rotation is RotationRule.REUSE_REVOKES_FAMILY or (
            self.rules.rotation is RotationRule.GRACE and self.rules.after_grace == "revoke_family"
        )
        if revokes:
            self.end_family(family, "reuse_detected")
            raise PresentedTokenRefused("reused_family_revoked", token)
        raise PresentedTokenRefused("reused", token)

    def _issue_successor(self, token: SimulatedRefreshToken, scopes: frozenset[str], *, now: float) -> SimulatedTokens:
        family = token.family
        family.used_at = now
        refresh = self._new_refresh(family, now=now, generation=token.generation + 1)
        token.answer = self._issue(family, scopes, refresh, now=now)
        token.successor = refresh[1]
        return token.answer

    def _new_refresh(self, family: Family, *, now: float, generation: int = 0) -> tuple[str, SimulatedRefreshToken]:
        value = self._mint("refresh", family.kind)
        suffix = "" if family.refresh_issued == generation else f".{family.refresh_issued}"
        lifetime = self.refresh_lifetimes.get(family.client_id)
        ends = None if lifetime is None else now + lifetime
        token = SimulatedRefreshToken(f"{family.label}:r{generation}{suffix}", family, generation, expires_at=ends)
        family.refresh_issued += 1
        self._refresh[fingerprint(value)] = token
        return value, token

    def _issue(
        self, family: Family, scopes: frozenset[str], refresh: tuple[str, SimulatedRefreshToken] | None, *, now: float
    ) -> SimulatedTokens:
        if self.rules.refresh_ends_access:
            self._end_access(family)
        value = self._mint("access", family.kind)
        expires_at = math.inf if family.client_id in self.endless else now + self.rules.access_lifetime
        token = AccessToken(f"{family.label}:a{family.access_issued}", family, scopes, expires_at=expires_at)
        family.access_issued += 1
        self._access[fingerprint(value)] = token
        return SimulatedTokens(
            family=family,
            access_token=value,
            refresh_token=None if refresh is None else refresh[0],
            scopes=scopes,
            expires_at=token.expires_at,
            access_label=token.label,
            refresh_label=None if refresh is None else refresh[1].label,
        )

    def _end_access(self, family: Family) -> None:
        for token in self._access.values():
            if token.family is family:
                token.revoked = True

    def _end_if_old(self, family: Family, *, now: float) -> None:
        absolute, idle = self.rules.refresh_lifetime, self.rules.refresh_idle
        too_old = absolute is not None and now >= family.created_at + absolute
        too_idle = idle is not None and now >= family.used_at + idle
        if too_old or too_idle:
            self.end_family(family, "expired")

    def _drop_oldest(self, newest: Family) -> None:
        limit = self.rules.refresh_limit
        if limit is None:
            return
        siblings = [
            family
            for family in self.live_families(account=newest.account, client_id=newest.client_id)
            if family.refresh_issued > 0
        ]
        for family in siblings[: max(0, len(siblings) - limit)]:
            self.end_family(family, "limit")


def slack_token(purpose: Literal["access", "refresh"], kind: Kind) -> str:
    """A value in the form that Slack gives tokens when rotation is on."""
    if purpose == "refresh":
        return f"xoxe-1-{secrets.token_urlsafe(48)}"
    return f"xoxe.{'xoxp' if kind == 'user' else 'xoxb'}-1-{secrets.token_urlsafe(48)}"


def plain_token(prefix: str, purpose: Literal["access", "refresh"], kind: Kind) -> str:
    """A value in no provider's form."""
    return f"{prefix}{purpose[0]}{kind[0]}_{secrets.token_urlsafe(40)}"


def google_token(purpose: Literal["access", "refresh"], kind: Kind) -> str:
    """A value in the form of Google's tokens; its refresh tokens contain slashes."""
    if purpose == "refresh":
        return f"1//0{secrets.token_urlsafe(48)}"
    return f"ya29.a0{secrets.token_urlsafe(64)}"
