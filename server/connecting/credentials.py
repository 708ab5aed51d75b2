"""Accounts that are connected with a credential that a person, or an administrator, enters.

The credential is checked against the format in the provider file, then at the service itself, and sealed. It never
leaves this module in an answer, event, or message. `server.portal.credential` is the page.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from http import HTTPStatus
from time import monotonic
from typing import Final

from providers.api.text import as_data
from providers.credentials.certificates import open_valid_identity
from providers.credentials.choices import outside_limit
from providers.credentials.entered_values import CredentialRefused, pack, public_values, read_credential, session_of
from providers.credentials.references import references_in
from providers.credentials.signing import open_key
from providers.definitions.catalog import Provider
from providers.definitions.credential import Credential
from providers.definitions.credential_checks import address_names
from providers.oauth.credential_upstream import CredentialLook, CredentialUpstream, LookOutcome
from providers.oauth.secret_references import SecretUnavailable
from providers.oauth.signed_tokens import granted_scopes
from server.connecting.app_returns import read_return
from server.connecting.entered_keys import open_keys
from server.connecting.links import LIFETIME, ConnectRefused, known_provider
from server.connecting.provider_authorization import (
    ConnectResult,
    ConsentRequest,
    check_may_connect,
    connection_outcome,
)
from server.deployment import Deployment
from server.sign_in import roles
from vault import connections, grants, limits, tickets, users
from vault.records import ADVISED, Connection, Event, Session, Ticket, TicketPurpose, User, parse_scope
from vault.refresh import consents
from vault.refusals import TransitionRefused
from vault.storage.database import Transaction
from vault.upstream import Account, TokenAnswer, UpstreamError

logger = logging.getLogger("token_vault.secrets")
LABEL_LIMIT: Final = 120
SIGN_INS: Final = 5  # attempts per hour of a person at a service, with a password that they enter
SIGN_INS_BY_NAME: Final = 10  # attempts per hour of all people with the same user name there
_UNNAMED: Final = "entered-"  # prefix of the ID of an account that the service doesn't identify
_DAY: Final = 86400
_OTHER_TEXT: Final = frozenset({"signed_token", "session"})  # whose fields aren't all parts of addresses
_SAYS_NEITHER: Final = frozenset({"temporarily_unavailable", "invalid_scope", "assertion_refused"})  # about the key


class EntryFault(Exception):
    """The entry can't be used; the person can correct it. `reason` names a text, `field` the wrong field.

    Reasons: `shape`, `missing`, `short`, `unknown`, `key`, `costly`, `ended`, and `admin` are about a field. `region`:
    the operator doesn't allow it. `refused`: the service doesn't accept the credential. `unchecked`: the service
    couldn't check it. `other_account`: it belongs to an account other than the one to replace. `acts_for`: the account
    to replace acts for a person. `not_named`: the service doesn't identify its account. `name_it`, `bad_end`: the name
    or the end is wrong. `too_often`: too many attempts for this person. `reference`: people may not refer to this
    secret. `unread`: the secret can't be read from its source.
    """

    def __init__(self, reason: str, *, field: str = "", status: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field
        self.status = status


@dataclass(frozen=True, slots=True)
class Entry:
    """The data that someone entered: the values of the fields, a name for the account, and the credential's end."""

    values: Mapping[str, str] = field(repr=False)
    label: str = ""
    ends_at: int | None = None


@dataclass(frozen=True, slots=True)
class CredentialForm:
    """The page where a person enters a credential for one purpose. `replaces`: the account that gets a new
    credential."""

    provider: Provider
    credential: Credential
    trip: ConsentRequest
    replaces: Connection | None


def check_is_on(deployment: Deployment, provider: Provider) -> None:
    """Raises ConnectRefused unless people can enter credentials for this service."""
    if not deployment.vault.upstreams[provider.name].is_configured:
        raise ConnectRefused(
            f"{provider.title} isn't turned on at this vault. Ask an admin to turn it on at "
            f"{deployment.url(f'/administration/providers/{provider.name}')}, or with token-vault providers setup "
            f"{provider.name}",
            kind="conflict",
        )


def end_of_day(entered: str) -> int | None:
    """The end of a day such as 2031-05-01, in UTC; None for an empty string. Raises EntryFault."""
    if not entered:
        return None
    try:
        day = date.fromisoformat(entered)
    except ValueError as error:
        raise EntryFault("bad_end") from error
    return int(datetime.combine(day, time(23, 59), tzinfo=UTC).timestamp())


async def start(deployment: Deployment, trip: ConsentRequest, *, user: User, session: Session) -> str:
    """The path of the page for this purpose; works only for this user in this browser session.

    Raises ConnectRefused, or StepUpRequired if the session isn't authenticated strongly enough.
    """
    provider = known_provider(deployment, trip.provider)
    await check_may_connect(deployment, session, provider)
    check_is_on(deployment, provider)
    async with deployment.transaction() as transaction:
        await trip.use_link(deployment, transaction)
        handle = await tickets.issue(
            transaction,
            deployment.keys,
            purpose=TicketPurpose.CREDENTIAL,
            payload=trip.payload(),
            lifetime=LIFETIME,
            now=deployment.now(),
            user_id=user.id,
            client_id=trip.client_id,
            binding=session.token_hash,
        )
    return f"/connect/credential/{handle}"


async def open_form(deployment: Deployment, handle: str, *, user: User, session: Session) -> CredentialForm:
    """The form behind its path. Raises ConnectRefused."""
    ticket = await tickets.peek(
        deployment.database, deployment.keys, handle, purpose=TicketPurpose.CREDENTIAL, now=deployment.now()
    )
    if ticket is None or ticket.user_id != user.id or not _is_same_browser(ticket, session):
        raise ConnectRefused("This page is no longer valid. Start again on the Accounts page.", detail="form")
    trip = _trip_of(ticket)
    provider = known_provider(deployment, trip.provider)
    replaced: Connection | None = None
    if trip.replaces is not None:
        replaced = await connections.get_connection(deployment.database, trip.replaces, user_id=user.id)
        if replaced is None or replaced.provider != provider.name:
            raise ConnectRefused("This account has been disconnected in the meantime.", detail="replaced")
    return CredentialForm(provider, _credential_of(provider), trip, replaced)


def form_for_other(deployment: Deployment, provider: Provider) -> CredentialForm:
    """The form in which an admin enters a credential for another person. Raises ConnectRefused."""
    credential = _credential_of(provider)
    check_is_on(deployment, provider)
    return CredentialForm(provider, credential, ConsentRequest(provider.name, provider.all_scopes), None)


def _credential_of(provider: Provider) -> Credential:
    if provider.credential is None:
        raise ConnectRefused(f"{provider.title} is now connected in another way. Start again.", detail="form")
    return provider.credential


def _is_same_browser(ticket: Ticket, session: Session) -> bool:
    return hmac.compare_digest(ticket.binding or b"", session.token_hash)


def _trip_of(ticket: Ticket) -> ConsentRequest:
    kept = ticket.payload
    ends_at, replaces = kept.get("ends_at"), kept.get("replaces")
    return ConsentRequest(
        provider=str(kept["provider"]),
        scopes=parse_scope(str(kept["scopes"])),
        client_id=ticket.client_id,
        delegated=parse_scope(str(kept["delegated"])),
        ask=parse_scope(str(kept["ask"])),
        ends_at=ends_at if isinstance(ends_at, int) else None,
        back=read_return(kept.get("back")),
        replaces=replaces if isinstance(replaces, str) else None,
    )


async def enter(
    deployment: Deployment, form: CredentialForm, entry: Entry, *, handle: str, user: User, session: Session
) -> ConnectResult:
    """Check the entry, and connect or replace the account. Raises EntryFault, or ConnectRefused if it is too late."""
    check_is_on(deployment, form.provider)
    await check_may_connect(deployment, session, form.provider, back=f"/connect/credential/{handle}")
    answer = await examine(deployment, form.provider, entry, user=user, replaces=form.replaces, by_admin=user.is_admin)
    by_admin = next((name for name in form.credential.fields if _needs_admin(form.credential, entry, name)), None)
    check = _guard(deployment, user, field=by_admin)

    async def use_form(transaction: Transaction) -> None:
        await check(transaction)
        await users.hold_user(transaction, user.id)  # before the ticket, as disabling and deleting do
        if form.trip.client_id is not None:
            await grants.hold_client(transaction, form.trip.client_id)  # as removing the agent does
        now, purpose = deployment.now(), TicketPurpose.CREDENTIAL
        try:
            await tickets.consume(transaction, deployment.keys, handle, purpose=purpose, now=now)
        except TransitionRefused as error:
            raise ConnectRefused("This page was already used. Check your accounts.", detail="form") from error

    return await store(deployment, form.trip, answer, user=user, guard=use_form)


def _needs_admin(credential: Credential, entry: Entry, name: str) -> bool:
    return credential.fields[name].by_admin and bool(entry.values.get(name, "").strip())


def _guard(deployment: Deployment, user: User, *, field: str | None) -> Callable[[Transaction], Awaitable[None]]:
    """Check the caller in the transaction. With a `field` for admins, raise EntryFault unless the person is one now."""

    async def check(transaction: Transaction) -> None:
        if field is None:
            await deployment.check_caller(transaction)
            return
        await users.hold_admins(transaction)
        await deployment.check_caller(transaction)
        current = await users.get_user(transaction, user.id)
        now_is = None if current is None else await roles.with_groups(deployment, current, reader=transaction)
        if now_is is None or not now_is.is_admin:
            raise EntryFault("admin", field=field)

    return check


async def examine(
    deployment: Deployment,
    provider: Provider,
    entry: Entry,
    *,
    user: User,
    replaces: Connection | None = None,
    by_admin: bool = False,
) -> TokenAnswer:
    """The answer to store, with its account. Raises EntryFault, and records a refusal by the service as an event."""
    credential = provider.credential
    if credential is None:
        raise EntryFault("unknown")
    given, references = await _read_elsewhere(deployment, provider, credential, entry.values, user=user)
    try:
        values = read_credential(credential, given, by_admin=by_admin)
        if (outside := outside_limit(provider, values)) is not None:
            raise EntryFault("region", field=outside)
        public_values(credential, values, needed=address_names(provider) if credential.kind in _OTHER_TEXT else None)
        if not references and deployment.entries.spend(user.id, provider.name, now=monotonic()):
            raise EntryFault("too_often")
        if credential.kind == "session":
            await _check_sign_ins(deployment, provider, values, user=user)
        entered, values = values, await open_keys(credential, values)
        last = _check_keys(credential, values, references=references, now=deployment.now())
    except CredentialRefused as error:
        raise EntryFault(error.reason, field=error.field) from error
    is_elsewhere = _is_elsewhere(credential, references)
    ends_in = _ends_in(provider, entry, last=last, is_elsewhere=is_elsewhere, now=deployment.now())
    label = as_data(entry.label, limit=LABEL_LIMIT).strip()
    upstream = CredentialUpstream(provider, deployment.http)
    try:
        answer, look = await upstream.enter(pack(credential, values))
        _check_look(look)
    except (UpstreamError, EntryFault) as error:
        reason = error.reason if isinstance(error, EntryFault) else _reason_of(error)
        details: dict[str, object] = {"provider": provider.name, "reason": f"credential_{reason}"}
        await deployment.activity.record_refusal(
            Event(kind="connection.refused", outcome="refused", user_id=user.id, details=details)
        )
        if isinstance(error, EntryFault):
            raise
        raise EntryFault(reason) from error
    _check_acts_for(credential, values, look, replaces)
    account = _account(provider, look, label=label, replaces=replaces)
    granted = granted_scopes(provider, answer)
    scopes = provider.all_scopes - provider.own_scopes if granted is None else granted
    if references:
        answer = _refer(credential, {**entered, **references}, answer)
    is_advice = ends_in is not None and entry.ends_at is None and last is None and credential.rotate_days is not None
    facts = {ADVISED: "yes"} if is_advice else {}
    return replace(
        answer, account=account, scopes=scopes, grant_expires_in=ends_in, metadata={**answer.metadata, **facts}
    )


async def _read_elsewhere(
    deployment: Deployment, provider: Provider, credential: Credential, given: Mapping[str, str], *, user: User
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The entry with secrets in place of references, and the references by field. Raises EntryFault."""
    secrets, references = deployment.live.current.secrets, references_in(credential, given)
    for name, one in references.items():
        if not secrets.may_enter(one, user=user.name):
            raise EntryFault("reference", field=name)
    if references and deployment.entries.spend(user.id, provider.name, now=monotonic()):
        raise EntryFault("too_often")
    read: dict[str, str] = {}
    for name, one in references.items():
        try:
            read[name] = await secrets.read(one, is_fresh=True)
        except SecretUnavailable as error:
            logger.warning("entered secret not read", extra={"provider": provider.name, "detail": error.description})
            raise EntryFault("unread", field=name) from error
    return {**given, **read}, references


def _refer(credential: Credential, entered: Mapping[str, str], answer: TokenAnswer) -> TokenAnswer:
    """The answer to store, with references in place of secrets."""
    if credential.kind == "key":
        return replace(answer, access_token=pack(credential, entered))
    return replace(answer, refresh_token=pack(credential, entered, session=session_of(answer.refresh_token or "")))


async def _check_sign_ins(deployment: Deployment, provider: Provider, values: Mapping[str, str], *, user: User) -> None:
    """Raises EntryFault after too many attempts: a person could guess other people's passwords or lock their
    accounts."""
    secret: tuple[str, ...] = () if provider.credential is None else provider.credential.secrets
    names = json.dumps({name: text.strip().casefold() for name, text in values.items() if name not in secret})
    at, now = f"sign-in:{provider.name}", deployment.now()
    by_name = hashlib.sha256(names.encode()).hexdigest()
    for bucket, limit in ((f"{at}:of:{user.id}", SIGN_INS), (f"{at}:at:{by_name}", SIGN_INS_BY_NAME)):
        async with deployment.transaction() as transaction:
            if not await limits.spend(transaction, bucket, limit=limit, window=3600, now=now):
                raise EntryFault("too_often")


def _check_keys(
    credential: Credential, values: Mapping[str, str], *, references: Mapping[str, str], now: int
) -> int | None:
    """The end of a certificate that the vault stores. Raises CredentialRefused if no private key works.

    The dates of a certificate that is kept elsewhere are checked at each use, since it may be replaced there.
    """
    if credential.signed_token is not None:
        open_key(credential, values)
    certificate = credential.send.certificate
    if certificate is None:
        return None
    held = open_valid_identity(certificate, values, now=now)
    return None if certificate.file in references else held.ends_at


def _reason_of(error: UpstreamError) -> str:
    return "unchecked" if error.code in _SAYS_NEITHER else "refused"


def _check_look(look: CredentialLook) -> None:
    match look.outcome:
        case LookOutcome.DEAD:
            raise EntryFault("refused", status=look.status)
        case LookOutcome.SILENT:
            raise EntryFault("unchecked", status=look.status)
        case LookOutcome.UNKNOWN if look.status == HTTPStatus.FORBIDDEN:  # the key works, but not for this request
            return
        case LookOutcome.UNKNOWN if look.status:  # the answer doesn't say whether the key is valid
            raise EntryFault("unchecked", status=look.status)
        case _:
            return


def _is_elsewhere(credential: Credential, references: Mapping[str, str]) -> bool:
    """Whether the credential can be replaced without the vault: it holds no secret that each entry needs."""
    needed = {name for name in credential.secrets if not credential.fields[name].optional}
    return bool(references) and needed <= references.keys()


def _ends_in(provider: Provider, entry: Entry, *, last: int | None, is_elsewhere: bool, now: int) -> int | None:
    """Seconds until the end: the person's or the usual one, or the certificate's if that is sooner.

    A credential that is kept elsewhere has no usual end, since it may be replaced there.
    """
    named = _named_end(entry, now=now)
    if named is None and not is_elsewhere:
        named = _usual_end(provider)
    ends = [one for one in (named, None if last is None else last - now) if one is not None]
    return min(ends, default=None)


def _usual_end(provider: Provider) -> int | None:
    usual = None if provider.credential is None else provider.credential.rotate_days
    return provider.expires.grant if usual is None else usual * _DAY  # the person gets a reminder before it


def _named_end(entry: Entry, *, now: int) -> int | None:
    if entry.ends_at is None:
        return None
    if not now + _DAY // 24 < entry.ends_at < now + 20 * 366 * _DAY:
        raise EntryFault("bad_end")
    return entry.ends_at - now


def _check_acts_for(
    credential: Credential, values: Mapping[str, str], look: CredentialLook, replaces: Connection | None
) -> None:
    """Raises EntryFault if the replaced account acts for a person and the new entry leaves that person out."""
    left = [name for name, one in credential.fields.items() if one.by_admin and not values.get(name)]
    is_without = (
        look.account is not None and replaces is not None and replaces.account.startswith(f"{look.account.id} ")
    )
    if left and is_without:
        raise EntryFault("acts_for", field=left[0])


def _account(provider: Provider, look: CredentialLook, *, label: str, replaces: Connection | None) -> Account:
    """The account as the service identifies it, else the replaced account, else a new one with the person's name for
    it."""
    if replaces is not None:
        is_unnamed = replaces.account.startswith(_UNNAMED)
        if look.account is not None and not is_unnamed and look.account.id != replaces.account:
            raise EntryFault("other_account")
        if look.account is None and not is_unnamed and provider.identity.id:
            raise EntryFault("not_named")  # it could be any account
        return Account(replaces.account, label or replaces.label)
    if look.account is not None:
        return look.account
    if not label:
        raise EntryFault("name_it", field="label")
    return Account(_UNNAMED + secrets.token_hex(8), label)


def has_same_label(connection: Connection, account: Account) -> bool:
    """Whether two accounts that the service doesn't identify have the same name."""
    are_unnamed = connection.account.startswith(_UNNAMED) and account.id.startswith(_UNNAMED)
    return are_unnamed and connection.label == account.label


async def store(
    deployment: Deployment,
    trip: ConsentRequest,
    answer: TokenAnswer,
    *,
    user: User,
    entered: Event | None = None,
    guard: Callable[[Transaction], Awaitable[None]] | None = None,
) -> ConnectResult:
    """Seal the credential, and let the agent use the account. `entered`: the event that an admin entered it.

    `guard`: see `consents.store`. Raises ConnectRefused.
    """
    consent = replace(trip.consent_of(user.id, entered=entered), replaces=trip.replaces)
    at_ms = consents.milliseconds(deployment.vault)
    try:
        stored = await consents.store(deployment.vault, consent, answer, at_ms=at_ms, guard=guard)
    except TransitionRefused as error:
        raise ConnectRefused(error.description, detail="state") from error
    if stored is None:
        raise ConnectRefused("Nothing was connected. Try again.", detail="state")
    return connection_outcome(deployment, consent, stored.connection)
