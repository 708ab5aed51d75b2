"""The account and permission for a program's call, and a handle for the vault's proxy.

The agent needs the scopes of the request rule that matches the call, and gets a handle for only these. If it may not
use an account yet, its person gets a link, and the call waits for a while.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from providers.api import rules
from providers.credentials.choices import every_choice
from providers.credentials.entered_values import CredentialRefused
from providers.credentials.placement import CredentialMismatch, provider_of_account
from providers.definitions.method_overrides import TARGET
from providers.definitions.model import Provider, Rule
from providers.definitions.unruled_calls import ANY_CALL
from server.connecting.agent_refusals import AgentRefusal, tell
from server.deployment import Deployment
from server.errors import as_sentence
from server.proxy.program_hosts import ApiAddress
from server.proxy.refusals import no_rule, refusal_of, upstream_unauthorized
from server.proxy.wire import ProxyRefused, query_pairs
from vault import delegations, handles, shared_connections
from vault.audit import audit
from vault.connections import names_account
from vault.exchange.exchange import ExchangeRequest, exchange, thumbprint
from vault.records import Connection, ConnectionState, Event, Principal, format_scope
from vault.refusals import VaultError
from vault.scopes import expand

PURPOSE: Final = "run"
READING: Final = frozenset({"GET", "HEAD"})
_LIFETIME: Final = 300  # seconds of a handle, as of a public client's
_EARLY: Final = 30  # seconds before its end at which a new one is issued
_LOOK: Final = 1.0  # seconds between checks for the person's permission
_QUIET: Final = 60.0  # seconds during which an unanswered question isn't repeated
logger = logging.getLogger("token_vault.run")


@dataclass(frozen=True, slots=True)
class WantedCall:
    """A call as the program sent it, with the `path` below the address of each matching API.

    `operation`: the one named by the header `X-Amz-Target`.
    """

    method: str
    path: str
    query: bytes = field(repr=False)
    operation: str = ""


@dataclass(frozen=True, slots=True)
class AccountChoice:
    """The account that a call is made with, at this API."""

    address: ApiAddress
    connection_id: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Question:
    """The permission that a call needs from the person: these scopes of an account at this API."""

    address: ApiAddress
    scopes: frozenset[str]
    account: str | None  # as it was named at the start

    @property
    def key(self) -> tuple[str, frozenset[str]]:
        """The same for calls that one answer allows."""
        return self.address.provider, self.scopes


@dataclass(frozen=True, slots=True)
class _HeldHandle:
    value: str = field(repr=False)
    renew_at: int
    ends_at: int


HandleIssue = Callable[[AccountChoice, int], Awaitable[tuple[str, int]]]  # now; the handle, and seconds of its life


@dataclass(frozen=True, slots=True)
class PermissionWait:
    """How to ask the person: `tell` gets a sentence and a link; `wait` is in seconds."""

    tell: Callable[[str, str], None]
    wait: float


class ProgramAccess:
    """The accounts that a program may use. `accounts`: the names of those to use if there are several.

    Without `asking`, raises the missing permission. `several`: how to choose one of several accounts.
    """

    def __init__(
        self,
        deployment: Deployment,
        principal: Principal,
        asking: PermissionWait | None,
        *,
        agent: str,
        accounts: Sequence[str],
        purpose: str = PURPOSE,
        several: str = "Start it with --account NAME.",
    ) -> None:
        self._deployment = deployment
        self._principal = principal
        self._asking = asking
        self._agent = agent
        self._accounts = accounts
        self._purpose = purpose
        self._several = several
        self._held: dict[tuple[str, frozenset[str]], _HeldHandle] = {}
        self._replaced: list[_HeldHandle] = []
        self._one_handle = asyncio.Lock()
        self._places: dict[tuple[str, str], tuple[Sequence[str], int]] = {}
        self._one_question: dict[tuple[str, frozenset[str]], asyncio.Lock] = {}
        self._unanswered: dict[tuple[str, frozenset[str]], tuple[float, ProxyRefused]] = {}

    async def choose(self, found: Sequence[ApiAddress], call: WantedCall) -> AccountChoice:
        """The account, once the person allows it. Raises ProxyRefused, also if no API was `found` at this path."""
        if not found:
            raise ProxyRefused("call_not_allowed", "No API of a connected account is at this path. Nothing was sent.")
        chosen = await self._find_allowed(found, call)
        if chosen is not None:
            return chosen
        question = await self._question(found, call)
        async with self._one_question.setdefault(question.key, asyncio.Lock()):
            chosen = await self._find_allowed(found, call)
            return await self._ask(found, call, question) if chosen is None else chosen

    async def handle(self, chosen: AccountChoice, issue: HandleIssue | None = None) -> str:
        """A handle for this account with these scopes that is valid for a while. `issue` creates a new one."""
        key = chosen.connection_id, chosen.scopes
        async with self._one_handle:
            held, now = self._held.get(key), self._deployment.now()
            if held is not None and now < held.renew_at:
                return held.value
            if held is not None:
                self._replaced = [*(one for one in self._replaced if now < one.ends_at), held]
            value, lifetime = await (issue or self._issue)(chosen, now)
            self._held[key] = _HeldHandle(value, now + lifetime - min(_EARLY, lifetime // 2), now + lifetime)
            return value

    async def _issue(self, chosen: AccountChoice, now: int) -> tuple[str, int]:
        lifetime = min(_LIFETIME, self._deployment.settings.exchange.handle_lifetime)
        async with self._deployment.transaction() as transaction:
            value = await handles.issue(
                transaction,
                principal=self._principal,
                connection_id=chosen.connection_id,
                provider=chosen.address.provider,
                scopes=chosen.scopes,
                key_thumbprint=None,
                expires_at=now + lifetime,
                now=now,
            )
            event = Event(
                "handle.issued",
                user_id=self._principal.user_id,
                client_id=self._principal.client_id,
                connection_id=chosen.connection_id,
                details={
                    "provider": chosen.address.provider,
                    "scopes": format_scope(chosen.scopes),
                    "purpose": self._purpose,
                    "grant": self._principal.grant_id,
                    "expires_in": lifetime,
                    "token_thumbprint": thumbprint(value),
                },
            )
            await audit.append(transaction, event, now=now)
        return value, lifetime

    async def check_place(self, chosen: AccountChoice) -> None:
        """Refuse a call to another account's address. Raises ProxyRefused and the exceptions of an exchange."""
        places = await self._places_of(chosen)
        if chosen.address.host not in places:
            raise ProxyRefused(
                "unknown_target",
                f"The account is at {', '.join(places)}, and the call at {chosen.address.host}. Nothing was sent.",
            )

    async def has_account_at(self, addresses: Sequence[ApiAddress]) -> bool:
        """Whether one of these APIs is an account's, as far as the vault knows. Other accounts' hosts don't count."""
        catalog, database = self._deployment.catalog, self._deployment.database
        if any("{" not in catalog.provider(one.provider).apis[one.api] for one in addresses):
            return True
        now, who = self._deployment.now(), self._principal
        held = await delegations.list_for_client(database, who.user_id, client_id=who.client_id)
        live = {one.connection_id: one.scopes for one in held if one.is_live(now)}
        for address, connection in self._pairs(addresses, await self._usable(now)):
            if connection.id not in live:
                return True  # it may be there: the agent can ask for it
            try:
                places = await self._places_of(AccountChoice(address, connection.id, live[connection.id]))
            except (ProxyRefused, VaultError):
                return True  # the call gets the reason
            if address.host in places:
                return True
        return False

    async def _places_of(self, chosen: AccountChoice) -> Sequence[str]:
        """The hosts of the account's API. Raises ProxyRefused and the exceptions of an exchange."""
        provider, api = self._deployment.catalog.provider(chosen.address.provider), chosen.address.api
        if "{" not in provider.apis[api]:
            return (chosen.address.host,)
        now = self._deployment.now()
        places, read_at = self._places.get((chosen.connection_id, api), (None, now))
        if places is None or read_at + _EARLY < now:
            request = ExchangeRequest(
                self._principal,
                provider.name,
                chosen.scopes,
                connection_id=chosen.connection_id,
                purpose=self._purpose,
            )
            token = await exchange(request, vault=self._deployment.vault, now=now)
            places = _hosts_of(provider, api, token.value)
            self._places[chosen.connection_id, api] = places, now
        return places

    async def unknown_account(self) -> str | None:
        """The text for a name from the command line that matches no connected account."""
        return self.problem_of_names(await self._usable(self._deployment.now()))

    def problem_of_names(self, usable: Sequence[Connection]) -> str | None:
        """The same for accounts that were looked up."""
        missing = [name for name in self._accounts if not any(_is_named(one, name) for one in usable)]
        if not missing:
            return None
        known = sorted({one.nickname or one.label for one in usable})
        wrong = next(iter(missing))
        close = next(iter(difflib.get_close_matches(wrong, known)), None)
        advice = f"Use one of: {', '.join(known)}." if close is None else f'Did you mean "{close}"?'
        return f'no connected account is called "{wrong}". {advice if known else "Connect it first."}'

    async def close(self) -> None:
        """Revoke all handles; if the database can't be reached, they expire by themselves."""
        given = [*self._held.values(), *self._replaced]
        self._held.clear()
        self._replaced.clear()
        try:
            async with self._deployment.transaction() as transaction:
                for one in given:
                    await handles.remove(transaction, one.value, client_id=self._principal.client_id)
        except VaultError as error:
            logger.warning("handles weren't given up; they end by themselves", extra={"cause": error.detail})

    async def _find_allowed(self, found: Sequence[ApiAddress], call: WantedCall) -> AccountChoice | None:
        """The account that this agent may use for the call; None if it must ask. Raises ProxyRefused."""
        now, user = self._deployment.now(), self._principal.user_id
        usable = await self._usable(now)
        # Otherwise an account that wasn't named might take the place of one that was.
        if not self._named_pairs(found, usable) and (problem := self.problem_of_names(usable)) is not None:
            raise ProxyRefused("account_required", as_sentence(problem), kind="forbidden")
        held = await delegations.list_for_client(self._deployment.database, user, client_id=self._principal.client_id)
        live = {one.connection_id: one for one in held if one.is_live(now)}
        chosen: list[tuple[AccountChoice, Connection]] = []
        for address, connection in self._pairs(found, usable):
            if connection.id not in live:
                continue
            provider = self._deployment.catalog.provider(address.provider)
            may = expand(live[connection.id].scopes, provider.covers)
            may &= expand(connection.scopes, provider.covers) | provider.own_scopes
            if scopes := _scopes_within(provider, self.rules_for(provider, address, call), may):
                chosen.append((AccountChoice(address, connection.id, scopes), connection))
        match chosen:
            case [] | [_]:
                pass
            case _:
                there = [one for one in chosen if await self._is_there(one[0])]
                chosen = there or chosen[:1]  # which `check_place` refuses
        match chosen:
            case []:
                return None
            case [(only, _)]:
                return only
            case _:
                names = ", ".join(sorted(one.label for _, one in chosen))
                raise ProxyRefused(
                    "account_required",
                    f"{self._agent} may use several accounts for this call: {names}. {self._several}",
                    kind="forbidden",
                )

    async def _is_there(self, chosen: AccountChoice) -> bool:
        """Whether the account's API is at the called host, as far as the vault can tell."""
        with suppress(ProxyRefused, VaultError):
            return chosen.address.host in await self._places_of(chosen)
        return False

    async def _usable(self, now: int) -> list[Connection]:
        usable = await shared_connections.usable_by(self._deployment.database, self._principal.user_id, now=now)
        return [one for one in usable if one.state is ConnectionState.ACTIVE]

    def _pairs(
        self, found: Sequence[ApiAddress], usable: Sequence[Connection]
    ) -> Sequence[tuple[ApiAddress, Connection]]:
        """Accounts at these APIs: those that were named, if any of them was."""
        return self._named_pairs(found, usable) or _pairs_at(found, usable)

    def _named_pairs(
        self, found: Sequence[ApiAddress], usable: Sequence[Connection]
    ) -> Sequence[tuple[ApiAddress, Connection]]:
        pairs = _pairs_at(found, usable)
        return [(address, one) for address, one in pairs if any(_is_named(one, name) for name in self._accounts)]

    def may_change(self, chosen: AccountChoice, call: WantedCall) -> bool:
        """Whether the call may change something at the provider, as far as its address shows."""
        provider = self._deployment.catalog.provider(chosen.address.provider)
        if call.method not in READING:
            return not chosen.scopes <= provider.reading_scopes
        found = self.rules_for(provider, chosen.address, call)
        return not all(reads(provider, one) for one in found if not chosen.scopes.isdisjoint(one.scopes))

    def rules_for(self, provider: Provider, address: ApiAddress, call: WantedCall) -> list[Rule]:
        """The rules for the call as far as its address shows."""
        path, method = call.path.removeprefix(address.path), rules.judged_method(call.method)
        pairs = query_pairs(call.query)
        found = rules.of_path(provider, api=address.api, method=method, path=path)
        found = rules.of_query(provider, found, api=address.api, method=method, query=pairs)
        query: dict[str, object] = dict(pairs)
        operation = call.operation if TARGET in provider.proxied.headers else ""  # nowhere else is it sent
        return [
            rule
            for rule in found
            if not rule.tells_secrets and _may_fit(rule, query, operation, has_body=method not in {"GET", "DELETE"})
        ]

    async def _question(self, found: Sequence[ApiAddress], call: WantedCall) -> Question:
        """Raises ProxyRefused if no permission would help."""
        usable = await self._usable(self._deployment.now())
        held = {one.provider: one for _, one in self._pairs(found, usable)}
        address = next(iter([one for one in found if one.provider in held] or found))
        provider = self._deployment.catalog.provider(address.provider)
        fitting = self.rules_for(provider, address, call)
        if not fitting:
            raise self.refusal(provider, address, call)
        return Question(address, _least(fitting, held.get(provider.name)), self._account_named(provider, usable))

    async def _ask(self, found: Sequence[ApiAddress], call: WantedCall, question: Question) -> AccountChoice:
        """Ask the person, and wait. Raises ProxyRefused with the next step."""
        if self._asking is None:
            return await self._exchange(question)
        loop = asyncio.get_running_loop()
        until, refused = self._unanswered.get(question.key, (loop.time(), None))
        if refused is not None and loop.time() < until:
            raise refused
        if (trouble := await self._deployment.pages.trouble()) is not None:
            raise ProxyRefused(
                "pages_elsewhere", f"The link for your permission can't be given: {trouble}", kind="not_ready"
            )
        told = await self._try(question)
        if isinstance(told, AccountChoice):
            return told
        if told.link is not None:
            self._asking.tell(told.link.message, told.link.url)
            end = loop.time() + self._asking.wait
            while loop.time() < end:
                await asyncio.sleep(_LOOK)
                if (chosen := await self._find_allowed(found, call)) is not None:
                    return chosen
        refusal = refusal_of(told)
        if told.link is not None:  # otherwise the cause may be temporary
            self._unanswered[question.key] = loop.time() + _QUIET, refusal
        raise refusal

    def refusal(self, provider: Provider, _address: ApiAddress, call: WantedCall) -> ProxyRefused:
        """The text for a call without a rule."""
        return no_rule(provider, call.path)

    def _account_named(self, provider: Provider, usable: Sequence[Connection]) -> str | None:
        own = [one for one in usable if one.provider == provider.name]
        return next((name for name in self._accounts for one in own if _is_named(one, name)), None)

    async def _try(self, question: Question) -> AccountChoice | AgentRefusal:
        """The account if the call is allowed; otherwise the refusal, with a link if the person can help."""
        try:
            return await self._exchange(question)
        except VaultError as error:
            return await tell(self._deployment, error, self._principal, tool=self._agent, account=question.account)

    async def _exchange(self, question: Question) -> AccountChoice:
        request = ExchangeRequest(
            self._principal,
            question.address.provider,
            question.scopes,
            account=question.account,
            purpose=self._purpose,
        )
        token = await exchange(request, vault=self._deployment.vault, now=self._deployment.now())
        return AccountChoice(question.address, token.connection_id, token.scopes)


def reads(provider: Provider, rule: Rule) -> bool:
    """Whether calls of this rule change nothing: it allows only GET, or a scope that only reads."""
    return (rule.method == ("GET",) and ANY_CALL not in rule.scopes) or not rule.scopes.isdisjoint(
        provider.reading_scopes
    )


def stores_encoding(deployment: Deployment, chosen: AccountChoice) -> bool:
    """Whether the encoding of a body is part of what is stored, as at S3: then the proxy refuses one."""
    provider = deployment.catalog.get(chosen.address.provider)
    credential = None if provider is None else provider.credential
    return credential is not None and credential.send.aws is not None


def _hosts_of(provider: Provider, api: str, token: str) -> Sequence[str]:
    try:
        there = (provider_of_account(provider, one).apis[api] for one in every_choice(provider, token))
        return tuple(urlsplit(url).hostname or "" for url in there)
    except (CredentialMismatch, CredentialRefused) as error:
        raise upstream_unauthorized(provider) from error


def _pairs_at(found: Sequence[ApiAddress], usable: Sequence[Connection]) -> Sequence[tuple[ApiAddress, Connection]]:
    return [(address, one) for address in found for one in usable if one.provider == address.provider]


def _is_named(connection: Connection, name: str) -> bool:
    known = (connection.account, connection.label)
    return connection.nickname == name or any(
        names_account(name, id=connection.id, account=account, label=connection.label) for account in known
    )


def _may_fit(rule: Rule, query: dict[str, object], operation: str, *, has_body: bool) -> bool:
    """Whether the rule can match with this query; its conditions on the body aren't checked yet."""
    if not has_body:
        return rules.fits(rule, query, operation)
    return rule.target_pattern.fullmatch(operation) is not None and all(
        pattern.fullmatch(str(query[name])) for name, pattern in rule.where_patterns if name in query
    )


def _scopes_within(provider: Provider, fitting: Iterable[Rule], may: frozenset[str]) -> frozenset[str]:
    """The scopes of each rule that `may` satisfies; which one matches may depend on the body."""
    wanted: set[str] = set()
    for rule in fitting:
        options = rule.scopes & may
        if options and rule.needs <= may:
            wanted |= {min(options, key=lambda one: _reach(provider, one)), *rule.needs}
    return frozenset(wanted)


def _reach(provider: Provider, scope: str) -> tuple[int, str]:
    return len(provider.covers.get(scope, ())), scope


def _least(fitting: Sequence[Rule], account: Connection | None) -> frozenset[str]:
    """The scopes to request: preferably those that the account already has."""
    has = frozenset[str]() if account is None else account.scopes
    options = [frozenset({scope}) | rule.needs for rule in fitting for scope in sorted(rule.scopes)]
    return min(options, key=lambda one: (not one <= has, len(one)))
