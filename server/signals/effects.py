"""The effects of a verified event: the operator's rule for the person, and a check of accounts at a provider.

Everything, including the event's entry in the activity, is one transaction, so that every process refuses access as
soon as it commits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from server.deployment import Deployment
from server.signal_settings import Effect, TransmitterSettings
from server.signals import subjects, verifications
from server.signals.security_events import EventRefused, SecurityEvent
from server.signals.subjects import SubjectUnsupported
from vault import replay, users
from vault.audit import audit
from vault.records import Event, Role, User
from vault.refresh import grant_checks
from vault.refresh.grant_checks import HintedConnection
from vault.storage.database import Reader, Transaction

_CAEP: Final = "https://schemas.openid.net/secevent/caep/event-type/"
_RISC: Final = "https://schemas.openid.net/secevent/risc/event-type/"
_OAUTH: Final = "https://schemas.openid.net/secevent/oauth/event-type/"
_SSF: Final = "https://schemas.openid.net/secevent/ssf/event-type/"
VERIFICATIONS: Final = frozenset({f"{_SSF}verification", f"{_RISC}verification"})  # SSF 1.0 §8.1.4.1, and Google's
# The rule for an event's type (CAEP 1.0 §3, RISC 1.0 §2).
RULES: Final = {
    f"{_CAEP}session-revoked": "session_revoked",
    f"{_RISC}sessions-revoked": "session_revoked",
    f"{_CAEP}credential-change": "credential_change",
    f"{_RISC}account-credential-change-required": "credential_change",
    f"{_RISC}credential-compromise": "credential_change",
    f"{_CAEP}token-claims-change": "token_claims_change",
    f"{_RISC}account-disabled": "account_disabled",
    f"{_RISC}account-purged": "account_disabled",
}
_DONE: Final[Mapping[Effect, str]] = {
    "note": "noted",
    "sign_out": "signed_out",
    "stop_agents": "stopped",
    "disable": "disabled",
}
# After these, a grant at the provider may have ended.
HINTS: Final = frozenset({*RULES, f"{_OAUTH}tokens-revoked", f"{_OAUTH}token-revoked"}) - {
    f"{_CAEP}token-claims-change"
}

CLOCKS: Final = 60  # seconds that a transmitter's clock may be behind ours


async def apply(deployment: Deployment, name: str, transmitter: TransmitterSettings, event: SecurityEvent) -> bool:
    """Apply the event's rule once; False if the token was already used. Raises EventRefused."""
    now = deployment.now()
    if event.kind in VERIFICATIONS and not transmitter.is_google:
        await _check_state(deployment, name, event)
    person, is_named = await _find_person(deployment, transmitter, event)
    hinted = await _find_accounts(deployment, transmitter, event)
    wanted = effect_of(transmitter, event.kind)
    async with deployment.transaction() as transaction:
        is_first = await replay.first_use(
            transaction,
            _purpose(transmitter),
            event.token_id,
            expires_at=max(event.issued_at, now) + transmitter.max_age + 120,
            now=now,
        )
        if not is_first:
            return False
        if event.kind in VERIFICATIONS and event.state is not None:
            await verifications.note(transaction, name, event.state, now=now)
        due = await grant_checks.note(transaction, hinted, now=now)
        facts: dict[str, object] = {"name": name, "event": event.kind.rpartition("/")[2][:80]}
        lines = [_hint(one, source=name) for one in due]
        if person is not None:
            at = min(now, event.occurred_at + CLOCKS)
            done = await affect(transaction, person, wanted, by=transmitter.people_of, at=at, now=now)
            lines.append(Event(f"signal.{_DONE[done]}", user_id=person.id, details=facts))
        elif not hinted and event.kind not in VERIFICATIONS:
            reason = "unknown_subject" if is_named else "unsupported_subject"
            lines.append(Event("signal.unmatched", outcome="refused", details={**facts, "reason": reason}))
        elif hinted and not lines:  # about accounts that are already scheduled for a check
            lines.append(Event("signal.noted", details=facts))
        await audit.append(transaction, *lines, now=now)
    grant_checks.start(deployment.vault, due)
    return True


def _purpose(transmitter: TransmitterSettings) -> str:
    return f"set:{transmitter.issuer}"


async def is_used(reader: Reader, transmitter: TransmitterSettings, event: SecurityEvent, *, now: int) -> bool:
    """Whether the event's token was already used, over any delivery method; doesn't use it up."""
    return await replay.is_seen(reader, _purpose(transmitter), event.token_id, now=now)


async def _check_state(deployment: Deployment, name: str, event: SecurityEvent) -> None:
    """A verification that the transmitter sends by itself has no state (SSF 1.0 §8.1.4.1). Raises EventRefused."""
    if event.state is not None and not await verifications.is_expected(
        deployment.database, name, event.state, now=deployment.now()
    ):
        raise EventRefused("invalid_state", "no one here asked for a verification with this state")


async def affect(transaction: Transaction, person: User, wanted: Effect, *, by: str, at: int, now: int) -> Effect:
    """Apply an effect to a person; returns the effect actually applied, since the last admin or owner is never
    disabled.

    `at`: when it happened; sessions begun later stay. A person who then signed in at the issuer `by`, or whom an admin
    enabled, is only signed out of the older ones.
    """
    if wanted == "disable":
        await users.hold_admins(transaction)  # first, like every action of an admin
    await users.hold_user(transaction, person.id)
    person = await users.get_user(transaction, person.id) or person
    if wanted in {"stop_agents", "disable"} and await users.was_cleared(transaction, person.id, by=by, since=at):
        wanted = "sign_out"
    is_owner = person.role is Role.OWNER
    if wanted == "disable" and (
        await users.is_last_admin(transaction, person.id)
        or (is_owner and await users.is_last_owner(transaction, person.id))
    ):
        wanted = "stop_agents"
    match wanted:
        case "note":
            pass
        case "sign_out":
            await users.end_user_sessions(transaction, person.id, now=now, begun_until=at)
        case "stop_agents":
            await users.stop_agents(transaction, person.id, by=by, at=at, now=now)
        case "disable":
            await users.disable_user(transaction, person.id, now=now)
    return wanted


def effect_of(transmitter: TransmitterSettings, kind: str) -> Effect:
    """The operator's rule for a type of event; others are only noted."""
    match RULES.get(kind):
        case "session_revoked":
            return transmitter.session_revoked
        case "credential_change":
            return transmitter.credential_change
        case "token_claims_change":
            return transmitter.token_claims_change
        case "account_disabled":
            return transmitter.account_disabled
        case _:
            return "note"


async def _find_person(
    deployment: Deployment, transmitter: TransmitterSettings, event: SecurityEvent
) -> tuple[User | None, bool]:
    """The person, and whether any identifier has a supported format."""
    try:
        return await subjects.find_person(deployment.database, transmitter, event.subjects), True
    except SubjectUnsupported:
        return None, False


async def _find_accounts(
    deployment: Deployment, transmitter: TransmitterSettings, event: SecurityEvent
) -> Sequence[HintedConnection]:
    if transmitter.provider is None or event.kind not in HINTS:
        return ()
    found: list[HintedConnection] = []
    for account in subjects.accounts_at_provider(transmitter, event.subjects):
        found += await grant_checks.find_accounts(deployment.database, provider=transmitter.provider, account=account)
    return found


def _hint(one: HintedConnection, *, source: str) -> Event:
    return Event("connection.hinted", user_id=one.user_id, connection_id=one.connection_id, details={"name": source})


async def hint(
    deployment: Deployment, hinted: Sequence[HintedConnection], *, source: str, once: str, remembered: int
) -> bool:
    """Schedule a check of these connections, for a message that `once` identifies; False if it was used within that
    time.

    `remembered` is 0 if a repetition can't be distinguished from a new message.
    """
    now = deployment.now()
    async with deployment.transaction() as transaction:
        if remembered and not await replay.first_use(
            transaction, f"webhook:{source}", once, expires_at=now + remembered, now=now
        ):
            return False
        due = await grant_checks.note(transaction, hinted, now=now)
        await audit.append(transaction, *(_hint(one, source=source) for one in due), now=now)
    grant_checks.start(deployment.vault, due)
    return True
