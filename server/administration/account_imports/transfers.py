"""Check the accounts in a file, and import those that can be imported.

An imported account has no access token yet, so its first use refreshes through the same journal as every other one. If
the file lacks the provider's ID of an account, the provider is asked with the access token in the file; nothing is
changed there.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from providers.api.text import as_data
from providers.definitions.model import Provider
from providers.oauth.token_responses import account_named, kept_facts
from providers.outbound.json_values import is_array
from server.administration.account_imports.accounts import ImportedAccount
from server.administration.actor import Actor, ChangeRefused
from server.administration.people import check_is_enabled, hold_person
from vault import connections, users
from vault.audit import audit
from vault.records import User
from vault.storage.database import Reader, Transaction
from vault.upstream import Account, TokenAnswer, UpstreamError
from vault.users import NameRefused

NEW: Final = "new"
KNOWN: Final = "already connected"
TWICE: Final = "the file has this account twice"
NOBODY: Final = "no such user, or disabled"
_AT_ONCE: Final = 8  # lookups at providers
_PLAIN_ID: Final = re.compile(r"\{[^{}]*\}")  # an account's ID is a single value of the answer


@dataclass(frozen=True, slots=True)
class ImportRules:
    """How the source's names are translated.

    `names`: our provider by the source's name. `people`: our person by the source's name. `scopes`: by our provider,
    for accounts whose source doesn't report what was granted. `creates_people`: create people who don't exist here yet,
    without a password.
    """

    names: Mapping[str, str] = field(default_factory=dict[str, str])
    people: Mapping[str, str] = field(default_factory=dict[str, str])
    scopes: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    creates_people: bool = False


@dataclass(frozen=True, slots=True)
class PlannedAccount:
    """The account to store. `left_out` are granted scopes that our provider file doesn't have."""

    person: str
    is_new_person: bool
    provider: Provider
    account: Account
    scopes: frozenset[str]
    left_out: frozenset[str]


@dataclass(frozen=True, slots=True)
class ImportOutcome:
    """The result for an account, actual or planned: NEW, KNOWN, or why it can't be imported."""

    row: ImportedAccount
    outcome: str
    planned: PlannedAccount | None = None

    @property
    def is_new(self) -> bool:
        return self.outcome == NEW

    @property
    def is_refused(self) -> bool:
        return self.outcome not in {NEW, KNOWN}


class _Obstacle(Exception):
    """Why an account can't be imported, for the report."""


async def judge(actor: Actor, rows: Sequence[ImportedAccount], rules: ImportRules) -> tuple[ImportOutcome, ...]:
    """The planned result for each account; stores nothing."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(row: ImportedAccount) -> ImportOutcome:
        async with gate:
            try:
                return await _judge(actor, row, rules)
            except _Obstacle as obstacle:
                return ImportOutcome(row, str(obstacle))

    found: list[ImportOutcome] = []
    seen: set[tuple[str, str, str]] = set()
    for judged in await asyncio.gather(*(one(row) for row in rows)):
        if judged.planned is not None and judged.outcome == NEW:
            key = (users.name_key(judged.planned.person), judged.planned.provider.name, judged.planned.account.id)
            judged = ImportOutcome(judged.row, TWICE) if key in seen else judged
            seen.add(key)
        found.append(judged)
    return tuple(found)


async def _judge(actor: Actor, row: ImportedAccount, rules: ImportRules) -> ImportOutcome:
    if row.obstacle:
        raise _Obstacle(row.obstacle)
    provider = _provider(actor, row, rules)
    scopes, left_out = _scopes(provider, row, rules)
    name, person = await _person(actor, row, rules)
    account = await _account(actor, provider, row)
    planned = PlannedAccount(name, person is None, provider, account, scopes, left_out)
    return ImportOutcome(row, await _judge_account(actor.deployment.database, person, planned), planned)


def _provider(actor: Actor, row: ImportedAccount, rules: ImportRules) -> Provider:
    deployment = actor.deployment
    found = deployment.catalog.get(rules.names.get(row.provider, row.provider))
    if row.token_url and row.provider not in rules.names:
        found = next((one for one in deployment.catalog if one.hosts.token_url == row.token_url), None)
    if found is None or found.audience is not None:
        raise _Obstacle("unknown provider")
    if not deployment.vault.upstreams[found.name].is_configured:
        raise _Obstacle(f"{found.name} isn't set up: enter the OAuth app that these tokens belong to")
    if row.client_id and row.client_id != found.registration.client_id:
        raise _Obstacle(
            f"it belongs to a different OAuth app than the one for {found.name} here: {row.client_id[:100]}"
        )
    return found


def _scopes(provider: Provider, row: ImportedAccount, rules: ImportRules) -> tuple[frozenset[str], frozenset[str]]:
    """The scopes granted here, and those left out because our provider file doesn't have them."""
    said = _named_scopes(provider, row.scopes) or rules.scopes.get(provider.name)
    if said is None and is_array(row.scopes) and row.account_is_ours:
        return frozenset(), frozenset()
    if said is None:
        raise _Obstacle(f"the file doesn't list the granted scopes: add --scopes {provider.name}='SCOPE ...'")
    unknown = said - provider.scopes.keys() - provider.always_granted
    if unknown and (row.account_is_ours or unknown == said):
        raise _Obstacle(f"{provider.name} doesn't have the scope {min(unknown)}")
    return said - unknown, unknown


def _named_scopes(provider: Provider, said: object) -> frozenset[str]:
    """The scopes in an array or in a text with any separator."""
    given = said if is_array(said) else re.split(r"[\s,]+", said) if isinstance(said, str) else ()
    synonyms = provider.scope.synonyms
    return frozenset(synonyms.get(name, name) for name in given if isinstance(name, str) and name)


async def _person(actor: Actor, row: ImportedAccount, rules: ImportRules) -> tuple[str, User | None]:
    """The person's name here, and the person; None for someone to create."""
    named = next((rules.people[name] for name in row.people if name in rules.people), None)
    for name in row.people if named is None else (named,):
        found = await users.find_user(actor.deployment.database, name)
        if found is not None:
            if found.disabled_at is not None:
                raise _Obstacle(NOBODY)
            return found.name, found
    if not row.people or not rules.creates_people:
        raise _Obstacle(NOBODY)
    return named or row.people[0], None


async def _account(actor: Actor, provider: Provider, row: ImportedAccount) -> Account:
    """The provider's ID of the account: from the file, or from the provider."""
    named = account_named(row.account, row.label)
    if row.account_is_ours and named is not None:
        return named
    is_usable = _PLAIN_ID.fullmatch(provider.identity.id) is not None
    why = "the file doesn't identify the account"
    if row.access_token:
        try:
            return await actor.deployment.vault.upstreams[provider.name].identify(row.access_token, row.answer)
        except UpstreamError as error:
            why = f"{error.description} ({error.code}): fetch the file again while its access tokens are valid"
    if named is None or not is_usable or row.access_is_lasting:
        raise _Obstacle(why)
    return named


async def _judge_account(reader: Reader, person: User | None, planned: PlannedAccount) -> str:
    if person is None:
        return NEW
    held = await connections.find(reader, person.id, provider=planned.provider.name)
    return KNOWN if any(one.account == planned.account.id for one in held) else NEW


async def take_over(actor: Actor, row: ImportedAccount, planned: PlannedAccount) -> str:
    """Store one account in its own transaction; returns NEW, KNOWN, or why not. Repeating it stores nothing twice."""
    deployment, provider = actor.deployment, planned.provider
    person = await users.find_user(deployment.database, planned.person)
    if person is None and not planned.is_new_person:
        return NOBODY
    now = deployment.now()
    try:
        async with actor.change() as transaction:
            if person is None:
                owner = await _make_person(actor, transaction, planned.person, now=now)
            else:
                owner = await hold_person(transaction, person.id)
                check_is_enabled(owner)
                if await _judge_account(transaction, owner, planned) == KNOWN:  # its tokens may be newer than these
                    return KNOWN
            opened = await connections.open_connection(
                transaction,
                deployment.keys,
                user_id=owner.id,
                provider=provider.name,
                answer=_answer(row, planned, now=now),
                asked=planned.scopes,
                policy=deployment.vault.policies[provider.name],
                now=now,
            )
            if row.nickname:
                await connections.rename(transaction, opened, nickname=as_data(row.nickname, limit=60))
            event = actor.event(
                "connection.opened",
                user_id=owner.id,
                provider=provider.name,
                account=opened.label,
                scopes=sorted(opened.scopes),
                method="import",
            )
            await audit.append(transaction, event, now=now)
    except NameRefused as error:
        return str(error)
    except ChangeRefused as error:
        if error.reason not in {"no_person", "person_changed"}:
            raise
        return NOBODY
    return NEW


def _answer(row: ImportedAccount, planned: PlannedAccount, *, now: int) -> TokenAnswer:
    """The grant as if the provider had just answered. If there is a refresh token, the access token is left out."""
    ends_in = None if row.grant_expires_at is None else max(0, row.grant_expires_at - now)
    return TokenAnswer(
        "-" if row.refresh_token else row.access_token,
        refresh_token=row.refresh_token or None,
        scopes=planned.scopes,
        expires_in=0 if row.refresh_token else None,
        account=planned.account,
        grant_expires_in=ends_in,
        metadata=row.metadata or kept_facts(planned.provider, row.answer),
    )


async def _make_person(actor: Actor, transaction: Transaction, name: str, *, now: int) -> User:
    made = await users.create_user(transaction, name, now=now)
    event = actor.event("user.created", user_id=made.id, method="import", admin=False)
    await audit.append(transaction, event, now=now)
    return made
