"""One provider file at the simulator: with addresses that lead there, a person who consents, and what a step may check.

The simulator takes only addresses from the file. `providers.check.check` has the steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qs, urlsplit

from providers.definitions.inputs import examples, with_inputs
from providers.definitions.model import Provider, Registration
from providers.oauth.client import OAuthUpstream
from providers.outbound.client import Outbound
from providers.outbound.messages import OutboundRequest
from providers.simulator.accounts import CLIENT_ID, CLIENT_SECRET
from providers.simulator.local_server import Simulator
from providers.simulator.modes import Mode, mode_of
from providers.simulator.person import ConsentRefused, consent
from vault.upstream import (
    NotSent,
    RefreshOutcome,
    Refusal,
    Rotation,
    Silent,
    TokenAnswer,
    UpstreamError,
)

REDIRECT: Final = "http://127.0.0.1:8765/connect/callback/test"
VERIFIER: Final = "v" * 43
PLAIN: Final = "generic"  # the mode of a file without its own: plain RFC 6749
SLACK: Final = 5  # seconds by which a lifetime may be off
LONGEST: Final = 10 * 365 * 86400  # longer lifetimes aren't believed


class StepFailed(Exception):
    """The file and the provider disagree. One line."""


class StepSkipped(Exception):
    """The reason why this step doesn't apply."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one step. `outcome` is ok, failed, or skipped with the reason."""

    step: str
    outcome: Literal["ok", "failed", "skipped"]
    note: str = ""


@dataclass(slots=True)
class Trial:
    """One file against one mode."""

    provider: Provider
    mode_name: str
    mode: Mode
    simulator: Simulator
    outbound: Outbound

    @property
    def base(self) -> str:
        return f"{self.simulator.url}/families/{self.mode_name}"

    @property
    def face(self) -> str:
        return f"families.{self.mode_name}"

    def upstream(self, *, secret: str = CLIENT_SECRET) -> OAuthUpstream:
        known = secret if self.provider.needs_secret else None
        provider = at_simulator(self.provider, self.base).with_registration(Registration(CLIENT_ID, known))
        return OAuthUpstream(provider, self.outbound, clock=self.simulator.now)

    async def connect(
        self, scopes: frozenset[str] | None = None, *, account: str = "alice", ticked: frozenset[str] | None = None
    ) -> TokenAnswer:
        """A person follows the link and consents; the code is redeemed. Raises StepFailed."""
        wanted = asked_of(self.provider) if scopes is None else scopes
        upstream = self.upstream()
        url = upstream.authorization_url(redirect_uri=REDIRECT, state="s-1", scopes=wanted, code_verifier=VERIFIER)
        try:
            back = parse_qs(urlsplit(await consent(url, account=account, scopes=ticked)).query)
        except (ConsentRefused, KeyError) as error:
            raise StepFailed(f"the provider shows no consent page: {str(error)[-160:]}") from error
        if back.get("state") != ["s-1"] or "code" not in back:
            raise StepFailed(
                f"the redirect has no code or the wrong state; its parameters: {', '.join(sorted(back)) or 'none'}"
            )
        try:
            return await upstream.redeem(
                code=back["code"][0], redirect_uri=REDIRECT, code_verifier=VERIFIER, state="s-1"
            )
        except UpstreamError as error:
            raise StepFailed(f"the code can't be redeemed: {error.code}: {error.description}") from error

    async def refresh(self, token: str | None, scopes: frozenset[str] | None = None) -> RefreshOutcome:
        if token is None:
            raise StepFailed("the answer has no refresh token")
        return await self.upstream().refresh(token, scopes)

    async def renew(self, token: str | None) -> TokenAnswer:
        """The tokens of a refresh that must work. Raises StepFailed."""
        outcome = await self.refresh(token)
        if not isinstance(outcome, Rotation):
            raise StepFailed(f"a refresh must be accepted, but is {in_words(outcome)}")
        return outcome.answer

    async def is_alive(self, access_token: str) -> bool:
        """Whether the provider accepts this access token, checked without the file."""
        request = OutboundRequest("GET", f"{self.base}/probe", headers={"Authorization": f"Bearer {access_token}"})
        return (await self.outbound.send(request)).status < 300


def at_simulator(provider: Provider, base: str) -> Provider:
    """The provider with every address at the simulator; the file still decides which addresses exist."""
    provider = with_inputs(provider, examples(provider))
    hosts, identity, revoke = provider.hosts, provider.identity, provider.revoke
    refresh = "renew" if provider.refresh_tokens == "access_token" else "refresh"
    tail = "/revoke/{token}" if revoke.token_in == "path" else "/revoke"
    changes: dict[str, object] = {
        "hosts": hosts.model_copy(
            update={
                "authorize_url": f"{base}/authorize",
                "token_url": f"{base}/token",
                "refresh_url": None if hosts.refresh_url is None else f"{base}/{refresh}",
                "revoke_url": None if hosts.revoke_url is None else f"{base}{tail}",
            }
        ),
        "identity": identity.model_copy(
            update={"url": f"{base}/identity" if identity.source == "endpoint" else None, "api": None, "path": None}
        ),
        "apis": dict.fromkeys(provider.apis, f"{base}/api"),
    }
    if revoke.probe.url is not None:
        probe = revoke.probe.model_copy(update={"url": f"{base}/introspect"})
        changes["revoke"] = revoke.model_copy(update={"probe": probe})
    if provider.long_lived is not None:
        changes["long_lived"] = provider.long_lived.model_copy(update={"url": f"{base}/longer"})
    return provider.model_copy(update=changes)


def asked_of(provider: Provider) -> frozenset[str]:
    """What connecting asks for; more than one scope if the file has more."""
    more = sorted(set(provider.scopes) - provider.always_granted - provider.scope.default)
    return provider.scope.default | frozenset(more[: max(0, 2 - len(provider.scope.default))])


def mode_for(provider: Provider, wanted: str | None = None) -> str:
    """The mode in which a file is tested: the requested one, the one of its name, or plain OAuth."""
    if wanted is not None:
        return wanted
    return mode_of(provider.name) or PLAIN


def is_known(trial: Trial, fact: str) -> bool:
    """Whether the file cites a source; a fact without one may be taken more strictly than it is."""
    return any(name == fact and known.status != "unknown" for name, known in trial.provider.facts.items())


def needs_refresh(trial: Trial) -> None:
    if trial.provider.refresh_tokens != "issued":
        raise StepSkipped("the provider issues no refresh tokens")


def is_near(found: int | None, expected: int) -> bool:
    return found is not None and abs(found - min(expected, LONGEST)) <= SLACK


def in_words(outcome: RefreshOutcome) -> str:
    match outcome:
        case Rotation():
            return "accepted"
        case Refusal():
            return f"refused ({outcome.code})"
        case NotSent() | Silent():
            return f"not answered ({outcome.reason})"
