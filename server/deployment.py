"""One running vault: the objects that routes, tools, and pages use. `server.app` creates it and passes it on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from providers.definitions.catalog import Catalog
from providers.tools.sets import ToolOffer
from providers.tools.spec import ToolSpec
from server.http.draining import Drain
from server.live_providers import LiveProviders
from server.runtime.kept_answers import KeptAnswers
from server.runtime.rate_limits import HOUR, Budgets
from server.runtime.recent_tokens import RecentTokens
from server.settings import Settings
from vault import users
from vault.audit.audit import Activity
from vault.audit.released_tokens import ReleasedTokens
from vault.exchange.exchange import Vault
from vault.keys.key_ring import KeyRing
from vault.records import Principal
from vault.refusals import ConnectionRequired, DelegationRequired
from vault.storage.database import Database, Transaction
from vault.tokens.tokens import Lifetimes

if TYPE_CHECKING:
    from providers.outbound.client import Outbound
    from server.policy.gate import PolicyGate
    from server.policy.rules import RuleSet
    from server.programs.hosted.pool import HostedServers
    from server.telemetry.export import Telemetry

ROWS_PER_MINUTE: Final = 3000  # single-use values that requests from one address may leave behind
ENTRIES_PER_HOUR: Final = 20  # credentials that one person may try at services


class Pages:
    """Whether the address of our pages reaches this process.

    It is assumed to, unless the process watches it and finds otherwise: a stdio process gives out links to an address
    that another program may have taken.
    """

    def __init__(self) -> None:
        self._trouble: Callable[[], Awaitable[str | None]] | None = None

    def watch(self, trouble: Callable[[], Awaitable[str | None]]) -> None:
        """Call `trouble` from now on; it returns a sentence, or None."""
        self._trouble = trouble

    async def trouble(self) -> str | None:
        """Why no link can be given out now, in a sentence that includes the fix; None if links work."""
        return None if self._trouble is None else await self._trouble()


@dataclass(frozen=True, slots=True)
class MissingPart:
    """The permission that part of a program's call lacked. `may_repeat`: nothing has been changed yet."""

    refusal: ConnectionRequired | DelegationRequired
    may_repeat: bool


def _tell_nobody(_missing: MissingPart) -> None:
    pass


@dataclass(frozen=True, slots=True)
class ToolCaller:
    """Who calls which tool of a program that the vault runs. `account`: the person's label for their access to it.

    `leave_out` receives a missing permission if the call was only partly answered without it.
    """

    principal: Principal
    connection_id: str
    account: str
    server: str
    title: str
    tool: str
    only_reads: bool
    leave_out: Callable[[MissingPart], None] = field(default=_tell_nobody, repr=False)


class RequestCaller(Protocol):
    """The credential behind a request: a session, an agent's access token, or a directory's token."""

    async def check(self, transaction: Transaction) -> None:
        """Raise this edge's refusal if the credential has ended; otherwise keep it from ending until the commit."""
        ...


@dataclass(frozen=True, slots=True)
class Deployment:
    """Everything that one process has open. `vault_id` (not secret) identifies the vault and is the same in all its
    processes."""

    settings: Settings
    data: Path
    database: Database
    keys: KeyRing
    activity: Activity
    live: LiveProviders
    http: Outbound
    vault: Vault
    vault_id: str
    open_browser: Callable[[str], bool] | None = None  # opens the owner's browser; None if there is no desktop
    drain: Drain = field(default_factory=Drain)
    pages: Pages = field(default_factory=Pages)
    budgets: Budgets = field(default_factory=lambda: Budgets(600))
    entries: Budgets = field(default_factory=lambda: Budgets(ENTRIES_PER_HOUR, window=HOUR))
    token_requests: Budgets = field(default_factory=lambda: Budgets(36_000, window=HOUR))  # by person and agent
    proxy_calls: Budgets = field(default_factory=lambda: Budgets(36_000, window=HOUR))
    admin_requests: Budgets = field(default_factory=lambda: Budgets(600))  # by admin and client
    released: ReleasedTokens = field(default_factory=ReleasedTokens)
    rows: Budgets = field(default_factory=lambda: Budgets(ROWS_PER_MINUTE))  # of strangers, by address
    tokens: RecentTokens = field(default_factory=RecentTokens, repr=False)  # of tool calls
    lookups: KeptAnswers = field(default_factory=KeptAnswers)  # names for ids on pages
    failing_upkeep: dict[str, str] = field(default_factory=dict[str, str])  # failure code by step
    policy: PolicyGate | None = None  # the operator's own rules and decision point, if any
    hosted: HostedServers | None = None  # MCP servers that the vault runs itself, if the settings have any
    telemetry: Telemetry | None = None  # where metrics and traces go, if anywhere
    caller: RequestCaller | None = field(default=None, repr=False)  # of one request; see `for_caller`
    planned_rules: Sequence[RuleSet] | None = field(default=None, repr=False)  # see `with_rules`

    @property
    def catalog(self) -> Catalog:
        """The providers as they are currently set up."""
        return self.live.current.catalog

    @property
    def tools(self) -> Sequence[ToolSpec]:
        """Every tool that agents can currently use."""
        return self.live.current.tools

    @property
    def offer(self) -> ToolOffer:
        """Which tools the operator offers, and to whom."""
        return self.live.current.offer

    def now(self) -> int:
        """The database's time in seconds."""
        return self.database.now()

    def for_caller(self, caller: RequestCaller) -> Deployment:
        """The deployment as one request uses it: each of its transactions first checks that the caller's credential is
        still live. A credential may end after the request was accepted, for example while its body arrives."""
        return replace(self, caller=caller)

    @property
    def rule_sets(self) -> Sequence[RuleSet]:
        """The operator's rules, active and on trial. A tool that one of them names can't be removed."""
        if self.planned_rules is not None:
            return self.planned_rules
        gate = self.policy
        return () if gate is None else [one for one in (gate.rules, gate.shadow) if one is not None]

    def with_rules(self, planned: Sequence[RuleSet]) -> Deployment:
        """The deployment as a command uses it that opened the vault without its rules because it replaces them."""
        return replace(self, planned_rules=planned)

    def transaction(self, *, holds_admins: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """A transaction that starts by checking the caller, if this is the deployment of a request.

        `holds_admins`: it also locks the admins, which must come before the lock on the caller.
        """
        return self.database.transaction() if self.caller is None else self._check_and_open(holds_admins=holds_admins)

    @asynccontextmanager
    async def _check_and_open(self, *, holds_admins: bool) -> AsyncGenerator[Transaction]:
        async with self.database.transaction() as transaction:
            if holds_admins:
                await users.hold_admins(transaction)
            await self.check_caller(transaction)
            yield transaction

    async def check_caller(self, transaction: Transaction) -> None:
        """The check of `transaction`, for one that was opened in another way."""
        if self.caller is not None:
            await self.caller.check(transaction)

    @property
    def refresh_lifetimes(self) -> Lifetimes:
        """The lifetimes of refresh tokens."""
        settings = self.settings.tokens
        return Lifetimes(
            absolute=settings.refresh_lifetime, idle=settings.refresh_idle_lifetime, grace=settings.refresh_grace
        )

    @property
    def public_url(self) -> str:
        """Our origin without a trailing slash."""
        return self.settings.public_url

    @property
    def issuer(self) -> str:
        """See `Settings.issuer`."""
        return self.settings.issuer

    def url(self, path: str) -> str:
        """An absolute URL of ours; `path` starts with a slash."""
        return self.settings.public_url + path

    def tool(self, name: str, *, client_id: str = "") -> ToolSpec | None:
        """The tool with that name, or None if this client doesn't have it."""
        if name in self.offer.hidden.get(client_id, ()):
            return None
        return self.live.current.by_name.get(name)
