"""The control endpoints: time, faults, rules, expiry, revocation, consent. For tests and demos, never for clients.

Each command takes a JSON object and returns one. `running.Simulator.control` calls the same commands without HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from providers.simulator import crowd
from providers.simulator.accounts import CLIENT_ID, PEOPLE, Face, RegisteredClient
from providers.simulator.modes.model import PREFIX
from providers.simulator.rules import FaceRules
from providers.simulator.state.authorize import ConsentDecision
from providers.simulator.state.faults import Fault
from providers.simulator.state.market import Market
from providers.simulator.state.sandbox import IdTokenChanges, Sandbox
from providers.simulator.state.tokens import Family
from providers.simulator.token_endpoint import end_family, end_grant

Answer = dict[str, object]
Command = Callable[[Sandbox, Mapping[str, JsonValue]], Answer]


class _ControlBody(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Clock(_ControlBody):
    advance: float = Field(ge=0)


class _Rotation(_ControlBody):
    face: Face
    mode: Literal["none", "grace", "strict", "reuse_revokes_family"]
    grace: float = Field(default=60, ge=0)
    answer: Literal["resend", "sibling"] = "resend"
    after_grace: Literal["refuse", "revoke_family"] = "refuse"


class _Lifetimes(_ControlBody):
    face: Face
    access: int | None = None
    refresh: int | None = None
    idle: int | None = None
    code: int | None = None


class _Omit(_ControlBody):
    face: Face
    times: int | None = 1  # None: all; 0: none


class _Selection(_ControlBody):
    face: Face | None = None
    account: str | None = None
    family: str | None = None

    def families(self, sandbox: Sandbox) -> Iterable[Family]:
        for face, state in list(sandbox.faces.items()):
            for family in state.tokens.families:
                if (
                    self.face in {None, face}
                    and self.account in {None, family.account}
                    and self.family in {None, family.label}
                ):
                    yield family


class _Trust(_ControlBody):
    issuer: str
    audience: str


class _Account(_ControlBody):
    account: str
    active: bool


class _Client(_ControlBody):
    client_id: str = CLIENT_ID
    redirect_uris: tuple[str, ...] | None


class _App(_ControlBody):
    client_id: str = Field(min_length=1)
    client_secret: str = Field(min_length=1)
    name: str = "An app"
    redirect_uris: tuple[str, ...] | None = None
    is_public: bool = False
    user_scopes: frozenset[str] | None = None
    rotates: bool = True
    api_enabled: bool = True
    test_users: frozenset[str] | None = None


class _Consent(_ControlBody):
    face: Face
    account: str | None = "alice"  # None: show the page again
    allow: bool = True
    scopes: frozenset[str] | None = None


def _reset(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> Answer:
    _ControlBody.model_validate(body)
    sandbox.reset()
    return {}


def _clock(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> Answer:
    sandbox.clock.advance(_Clock.model_validate(body).advance)
    return {"now": sandbox.clock.now()}


def _faults(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> Answer:
    many = body.get("faults")
    faults = [Fault.model_validate(item) for item in (many if isinstance(many, list) else [body])]
    for fault in faults:
        sandbox.faults.add(fault)
    return {"queued": len(sandbox.faults.queue)}


def _clear_faults(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> Answer:
    _ControlBody.model_validate(body)
    sandbox.faults.clear()
    return {}


def _release(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> Answer:
    _ControlBody.model_validate(body)
    released = list(sandbox.faults.held)
    sandbox.faults.release()
    return {"released": released}


def _rules(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> Answer:
    changes = dict(body)
    face = sandbox.face(str(changes.pop("face", None)))
    face.rules = FaceRules.model_validate({**face.rules.model_dump(), **changes})
    return {"rules": face.rules.model_dump(mode="json")}


def _rotation(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> Answer:
    wanted = _Rotation.model_validate(body)
    return _rules(
        sandbox,
        {
            "face": wanted.face,
            "rotation": wanted.mode,
            "grace_seconds": wanted.grace,
            "grace_answer": wanted.answer,
            "after_grace": wanted.after_grace,
        },
    )


def _lifetimes(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> Answer:
    wanted = _Lifetimes.model_validate(body)
    names = {
        "access": "access_lifetime",
        "refresh": "refresh_lifetime",
        "idle": "refresh_idle",
        "code": "code_lifetime",
    }
    return _rules(
        sandbox, {"face": wanted.face, **{names[name]: body[name] for name in names if name in wanted.model_fields_set}}
    )


def _omit_refresh_token(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> Answer:
    wanted = _Omit.model_validate(body)
    sandbox.face(wanted.face).tokens.omit_refresh_tokens = -1 if wanted.times is None else wanted.times
    return {}


def _expire(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> Answer:
    """Make access tokens expire now; refresh tokens stay valid."""
    chosen = {id(family) for family in _Selection.model_validate(body).families(sandbox)}
    now, count = sandbox.clock.now(), 0
    for face in sandbox.faces.values():
        for token in face.tokens.access_tokens():
            if id(token.family) in chosen and token.expires_at > now:
                token.expires_at = now
                count += 1
    return {"expired": count}


def _revoke_grant(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> Answer:
    """End the whole grant, as the person does on the provider's own page."""
    ended: list[str] = []
    for family in list(_Selection.model_validate(body).families(sandbox)):
        if family.ended is None:
            ended.append(family.label)
            (end_family if family.label.startswith(PREFIX) else end_grant)(sandbox, family)
    return {"ended": ended}


def _accounts(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> Answer:
    wanted = _Account.model_validate(body)
    if wanted.account not in PEOPLE:
        raise ValueError("unknown account")
    (sandbox.inactive.discard if wanted.active else sandbox.inactive.add)(wanted.account)
    return {"inactive": sorted(sandbox.inactive)}


def _client(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> Answer:
    wanted = _Client.model_validate(body)
    if wanted.client_id not in sandbox.clients:
        raise ValueError("unknown client")
    sandbox.register_redirect_uris(wanted.client_id, wanted.redirect_uris)
    return {}


def _app(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> Answer:
    """Create or change an app, as at the provider's console."""
    wanted = _App.model_validate(body)
    sandbox.register(RegisteredClient(**{name: getattr(wanted, name) for name in _App.model_fields}))
    return {}


def _consent(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> Answer:
    """Answer authorization requests at once, as this person would, without a page."""
    wanted = _Consent.model_validate(body)
    decision = None if wanted.account is None else ConsentDecision(wanted.account, wanted.allow, wanted.scopes)
    sandbox.face(wanted.face).auto_consent = decision
    return {}


def _id_token(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> Answer:
    sandbox.id_token = IdTokenChanges.model_validate(body)
    return {}


def _trust(sandbox: Sandbox, body: Mapping[str, JsonValue]) -> Answer:
    """Set the issuer whose tokens the brokerage accepts, and the audience."""
    wanted = _Trust.model_validate(body)
    sandbox.market = Market(wanted.issuer, wanted.audience)
    return {}


COMMANDS: dict[str, Command] = {
    "reset": _reset,
    "clock": _clock,
    "faults": _faults,
    "clear_faults": _clear_faults,
    "release": _release,
    "rules": _rules,
    "rotation": _rotation,
    "lifetimes": _lifetimes,
    "omit_refresh_token": _omit_refresh_token,
    "expire": _expire,
    "revoke_grant": _revoke_grant,
    "accounts": _accounts,
    "client": _client,
    "app": _app,
    "consent": _consent,
    "id_token": _id_token,
    "trust": _trust,
    "seed": crowd.seed,
    "brief_books": crowd.brief_books,
    "tally": crowd.tally,
}
