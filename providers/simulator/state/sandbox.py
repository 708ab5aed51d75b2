"""Everything the simulator keeps, in one place: clock, books, faults, the faces' tokens and data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from starlette.responses import Response

from providers.simulator.accounts import CLIENTS, FACES, PEOPLE, Face, RegisteredClient
from providers.simulator.calls import SimulatedCall
from providers.simulator.modes import SERVED, Mode
from providers.simulator.modes.model import PREFIX
from providers.simulator.rules import FaceRules, default_rules
from providers.simulator.state.authorize import Authorizations, ConsentDecision
from providers.simulator.state.books import Books, Entry
from providers.simulator.state.calendars import Calendars
from providers.simulator.state.clock import Clock
from providers.simulator.state.directory import Directory
from providers.simulator.state.drives import Drives
from providers.simulator.state.faults import Faults
from providers.simulator.state.keys import Keys
from providers.simulator.state.mailboxes import Mailboxes
from providers.simulator.state.market import Market
from providers.simulator.state.tokens import AccessToken, Mint, TokenStore, google_token, plain_token, slack_token
from providers.simulator.state.workspace import Workspace

PUBLIC_REFRESH_LIFETIME = 30 * 86400  # seconds, at Slack, of each refresh token of an app with PKCE turned on


_MINTS: dict[Face, Mint] = {"slack": slack_token, "google": google_token, "company": partial(plain_token, "")}


class IdTokenChanges(BaseModel):
    """Changes to the next ID tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    claims: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    remove: tuple[str, ...] = ()
    signed_by: str = "right"  # right | stranger (another key, same kid) | none (alg none)


@dataclass(frozen=True, slots=True)
class ServiceAPI:
    """The API of a mode, called after the token was found to allow the operation; its data is in `added`. `refusal` is
    the service's own answer for a dead token (401) or one that allows too little (403).
    """

    answer: Callable[[Sandbox, SimulatedCall, AccessToken], Response]
    refusal: Callable[[int], Response] | None = None


class FaceState:
    """One provider: its rules, tokens, open consent pages and codes."""

    def __init__(self, face: Face, *, rules: FaceRules, mint: Mint) -> None:
        self.face: Face = face
        self.tokens = TokenStore(face=face, rules=rules, mint=mint)
        self.authorizations = Authorizations()
        self.auto_consent: ConsentDecision | None = None

    @property
    def rules(self) -> FaceRules:
        """The rules in force."""
        return self.tokens.rules

    @rules.setter
    def rules(self, rules: FaceRules) -> None:
        self.tokens.rules = rules


class Sandbox:
    """The state of a running simulator; `reset` clears it without changing its address."""

    def __init__(self) -> None:
        self.url = ""
        self.clock = Clock()
        self.faults = Faults()
        self.modes: dict[str, Mode] = dict(SERVED)
        self.apis: dict[str, ServiceAPI] = {}  # by the name that modes use; these also survive a reset
        self.market = Market()
        self.reset()

    def reset(self) -> None:
        """Delete every token, fault, post and record."""
        self.faults.clear()
        self.clock = Clock()
        self.books = Books()
        self.faces: dict[Face, FaceState] = {
            face: FaceState(face, rules=default_rules(face), mint=_MINTS[face]) for face in FACES
        }
        self.clients: dict[str, RegisteredClient] = dict(CLIENTS)
        self.faces["slack"].tokens.refresh_lifetimes = {
            client.client_id: PUBLIC_REFRESH_LIFETIME for client in CLIENTS.values() if client.is_public
        }
        self.inactive: set[str] = set()
        self.id_token = IdTokenChanges()
        self.directory = Directory()
        self.workspace = Workspace(now=self.clock.now())
        self.calendars = Calendars(now=self.clock.now())
        self.mailboxes = Mailboxes(now=self.clock.now())
        self.drives = Drives()
        self.keys = Keys()
        self.market = Market(self.market.issuer, self.market.audience)
        self.added: dict[tuple[str, str], object] = {}  # data of the APIs in `apis`, by kind and account

    def face(self, name: str) -> FaceState:
        """The state of one provider; a family mode's is made on first use. Raises ValueError."""
        found = self.faces.get(name)
        if found is None:
            mode = self.modes.get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
            if mode is None:
                raise ValueError(f"face must be {', '.join(FACES)} or {PREFIX} and a mode")
            mint = partial(plain_token, mode.token_prefix)
            found = self.faces[name] = FaceState(name, rules=mode.rules, mint=mint)
        return found

    def mode(self, name: str) -> Mode:
        """The mode of a family face. KeyError when there is none."""
        return self.modes[name.removeprefix(PREFIX)]

    def issuer_of(self, name: str) -> str:
        """The issuer of a family face's authorization server, as the company knows it."""
        return f"{self.url}/families/{name.removeprefix(PREFIX)}"

    def register(self, client: RegisteredClient) -> None:
        """Create or change an app, as its owner does at the provider's console."""
        self.clients[client.client_id] = client
        tokens = self.faces["slack"].tokens
        (tokens.endless.discard if client.rotates else tokens.endless.add)(client.client_id)
        if client.is_public:
            tokens.refresh_lifetimes[client.client_id] = PUBLIC_REFRESH_LIFETIME
        else:
            tokens.refresh_lifetimes.pop(client.client_id, None)

    def register_redirect_uris(self, client_id: str, redirect_uris: tuple[str, ...] | None) -> None:
        """Let a client use exactly these redirect addresses; None goes back to any loopback or https address."""
        self.clients[client_id] = replace(self.clients[client_id], redirect_uris=redirect_uris)

    def ledger(self) -> dict[str, list[Entry]]:
        """The books, with the state of every token family."""
        pages, now = self.books.snapshot(), self.clock.now()
        pages["families"] = [
            {
                "face": face.face,
                "family": family.label,
                "account": family.account,
                "client_id": family.client_id,
                "kind": family.kind,
                "scopes": sorted(family.scopes),
                "generation": family.generation,
                "live_refresh_tokens": [token.label for token in face.tokens.live_refresh_tokens(family)],
                "live_access_tokens": [token.label for token in face.tokens.live_access_tokens(family, now=now)],
                "ended": family.ended,
            }
            for face in self.faces.values()
            for family in face.tokens.families
        ]
        return pages

    def is_active(self, account: str) -> bool:
        """Whether this person exists and has not been deactivated."""
        return account in PEOPLE and account not in self.inactive
