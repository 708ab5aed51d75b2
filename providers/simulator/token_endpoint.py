"""What all faces' endpoints share: use a code or a refresh token, end a grant, and record each call in the books. Each
face parses its own requests and builds its own answers and refusals.
"""

from __future__ import annotations

from collections.abc import Callable

from providers.simulator.accounts import RegisteredClient
from providers.simulator.calls import SimulatedCall
from providers.simulator.state.authorize import Code, CodeRefused
from providers.simulator.state.books import Entry, without_secrets
from providers.simulator.state.sandbox import Sandbox
from providers.simulator.state.tokens import (
    AccessToken,
    Family,
    PresentedTokenRefused,
    RefreshAnswer,
    SimulatedRefreshToken,
    fingerprint,
)


def note_redemption(
    sandbox: Sandbox, call: SimulatedCall, face: str, *, client: RegisteredClient, method: str
) -> Entry:
    """The entry for a presented code; `method` is how the client authenticated."""
    return sandbox.books.write(
        "redemptions",
        sandbox.clock.now(),
        face=face,
        outcome="ok",
        client_id=client.client_id,
        client_auth=method,
        sent_verifier=call.text("code_verifier") is not None,
        family=None,
        account=None,
        scopes=[],
        fault=call.fault,
    )


def redeem(
    sandbox: Sandbox, call: SimulatedCall, entry: Entry, *, redirect_uri: str | None, verifier: str | None
) -> Code:
    """Use the code of the call for the entry's client. Raises CodeRefused, with the reason in the entry."""
    state = sandbox.face(str(entry["face"]))
    try:
        return state.authorizations.redeem(
            call.text("code") or "",
            client_id=str(entry["client_id"]),
            redirect_uri=redirect_uri or "",
            verifier=verifier,
            lifetime=state.rules.code_lifetime,
            now=sandbox.clock.now(),
        )
    except CodeRefused as refusal:
        entry["outcome"] = refusal.reason
        raise


def refresh(
    sandbox: Sandbox,
    call: SimulatedCall,
    face: str,
    *,
    client: RegisteredClient,
    method: str,
    asked: frozenset[str],
    spend: Callable[[str], RefreshAnswer],
) -> RefreshAnswer:
    """Use the refresh token of the call with `spend`, which gets its value. The books record the outcome.

    Raises PresentedTokenRefused.
    """
    value = call.text("refresh_token") or ""
    entry = sandbox.books.write(
        "refreshes",
        sandbox.clock.now(),
        face=face,
        outcome="ok",
        client_id=client.client_id,
        client_auth=method,
        token_hash=fingerprint(value),
        family=None,
        token=None,
        token_generation=None,
        requested_scopes=sorted(asked),
        granted_scopes=[],
        fault=call.fault,
    )
    try:
        refreshed = spend(value)
    except PresentedTokenRefused as refusal:
        entry["outcome"] = f"refused:{refusal.reason}"
        if refusal.presented is not None:
            _name(entry, refusal.presented)
        raise
    _name(entry, refreshed.presented)
    entry.update(
        outcome=refreshed.outcome,
        granted_scopes=sorted(refreshed.issued.scopes),
        issued_access=refreshed.issued.access_label,
        issued_refresh=refreshed.issued.refresh_label,
    )
    return refreshed


def _name(entry: Entry, token: SimulatedRefreshToken) -> None:
    entry.update(family=token.family.label, token=token.label, token_generation=token.generation)


def check_active(sandbox: Sandbox, face: str, value: str) -> SimulatedRefreshToken | None:
    """The refresh token of this value. Raises PresentedTokenRefused when its person was deactivated."""
    known = sandbox.face(face).tokens.find_refresh(value)
    if known is not None and not sandbox.is_active(known.family.account):
        raise PresentedTokenRefused("inactive", known)
    return known


def note_client_refused(sandbox: Sandbox, call: SimulatedCall, face: str, reason: str) -> None:
    """Record a request to the token endpoint whose client didn't authenticate."""
    page = "refreshes" if call.text("grant_type") == "refresh_token" else "redemptions"
    sandbox.books.write(
        page,
        sandbox.clock.now(),
        face=face,
        outcome=f"refused:client_{reason}" if page == "refreshes" else f"client_{reason}",
        family=None,
        token_generation=None,
        fault=call.fault,
    )


def note_revocation(
    sandbox: Sandbox, call: SimulatedCall, face: str, known: AccessToken | SimulatedRefreshToken | None, *, outcome: str
) -> Entry:
    """The entry of a request to end this token."""
    return sandbox.books.write(
        "revocations",
        sandbox.clock.now(),
        face=face,
        token=None if known is None else known.label,
        family=None if known is None else known.family.label,
        outcome=outcome,
        rule=sandbox.face(face).rules.revoke,
        fault=call.fault,
    )


def revoke(sandbox: Sandbox, entry: Entry, known: AccessToken | SimulatedRefreshToken) -> None:
    """End what the face's rules require."""
    face = str(entry["face"])
    state = sandbox.face(face)
    match state.rules.revoke:
        case "lies":
            entry["outcome"] = "lied"
        case "token":
            state.tokens.revoke(known, now=sandbox.clock.now())
        case "family":
            state.tokens.end_family(known.family, "revoked")
        case "grant":
            end_grant(sandbox, known.family)


def end_family(sandbox: Sandbox, family: Family) -> None:
    """End every token of one consent, as the person does on the provider's own page."""
    state = sandbox.face(family.label.rpartition("-")[0])
    state.tokens.end_family(family, "revoked")
    state.authorizations.forget_consent(family.account, family.client_id)


def end_grant(sandbox: Sandbox, family: Family) -> None:
    """End everything that this person ever allowed this client."""
    tokens = sandbox.face(family.label.rpartition("-")[0]).tokens
    for sibling in tokens.live_families(account=family.account, client_id=family.client_id):
        end_family(sandbox, sibling)


def note_api_call(
    sandbox: Sandbox, call: SimulatedCall, face: str, method: str, *, value: str | None
) -> tuple[AccessToken | None, Entry]:
    """The access token with this value, live or not, and the entry of its call."""
    token = None if value is None else sandbox.face(face).tokens.find_access(value)
    entry = sandbox.books.write(
        "api_calls",
        sandbox.clock.now(),
        face=face,
        method=method,
        http_method=call.method,
        path=call.path,
        token=None if token is None else token.label,
        token_hash=None if value is None else fingerprint(value),
        token_family=None if token is None else token.family.label,
        account=None if token is None else token.family.account,
        scopes=[] if token is None else sorted(token.scopes),
        query=without_secrets(call.query),
        body=without_secrets(call.arguments),
        outcome="ok",
        fault=call.fault,
    )
    return token, entry
