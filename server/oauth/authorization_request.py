"""A checked authorization request, which is kept while the person decides and then for the code.

`authorize.py` checks the parameters; this module defines which sign-ins the request accepts, and how it is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter, ValidationError

from vault.records import Session
from vault.refusals import TransitionRefused


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """For a request by device code (RFC 8628): the code that its person compares, and the code that approval
    creates."""

    user_code: str = field(repr=False)
    address: str  # of the device that asked for the code
    asked_at: int
    code: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A checked request, which the ticket of a waiting request, and later of a code, refers to."""

    client_id: str
    redirect_uri: str
    challenge: str
    scopes: frozenset[str]
    resource: str
    state: str | None = field(default=None, repr=False)
    nonce: str | None = field(default=None, repr=False)
    dpop_thumbprint: str | None = None  # RFC 9449 §10: the code works only with this key
    names_redirect_uri: bool = True
    names_resource: bool = True
    signed_in_since: int = 0  # OpenID Connect Core §3.1.2.1: an older sign-in isn't accepted
    stale_session: str | None = None  # nor is this session, by its hash: the client requested a new sign-in
    asks_always: bool = False  # the client wants the person asked, whatever was allowed before
    auth_time: int | None = None  # when the person who allowed it signed in
    is_strong: bool = False  # with a passkey or several factors
    device: DeviceFacts | None = None  # the answer waits for a device instead of going to a redirect URI

    def accepts(self, session: Session) -> bool:
        """Whether the person signed in recently enough for this request."""
        return session.created_at >= self.signed_in_since and session.token_hash.hex() != self.stale_session


_ADAPTER = TypeAdapter(AuthorizationRequest)


def with_sign_in_rule(
    wanted: AuthorizationRequest, session: Session | None, *, prompt: frozenset[str], max_age: int | None, now: int
) -> AuthorizationRequest:
    """OpenID Connect Core §3.1.2.1: `prompt=login`, and a session older than `max_age`, need another sign-in.

    This is decided once, here, so that a person who takes long to decide doesn't have to sign in again.
    """
    is_stale = "login" in prompt or max_age == 0
    if max_age and (session is None or session.created_at < now - max_age):
        is_stale = True
    return replace(
        wanted,
        signed_in_since=now if is_stale else 0 if max_age is None else now - max_age,
        stale_session=session.token_hash.hex() if is_stale and session is not None else None,
        asks_always=bool(prompt & {"consent", "select_account"}),
    )


def payload_of(wanted: AuthorizationRequest) -> dict[str, object]:
    """What a ticket keeps of the request; `stored_request` reads it back."""
    dumped: dict[str, object] = _ADAPTER.dump_python(wanted, mode="json")
    return dumped


def stored_request(payload: object) -> AuthorizationRequest:
    """The request behind a ticket. Raises TransitionRefused for one of another version."""
    try:
        return _ADAPTER.validate_python(payload)
    except ValidationError as error:
        raise TransitionRefused("start again from the agent", detail="the stored request can't be read") from error
