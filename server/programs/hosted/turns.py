"""One tool call that a program carries out: which accounts and hosts the program reaches until the call ends.

Each request of the program is decided for this call's person and agent: it gets the scopes of the matching rule, within
the agent's permission. A tool that was accepted as read-only can make only calls that read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from providers.definitions.model import Provider, Rule
from server.deployment import Deployment, MissingPart, ToolCaller
from server.local_server_settings import LocalServerSettings
from server.programs.front import ProgramCall
from server.programs.local_calls import LocalCalls
from server.programs.wire import Exchange
from server.proxy.program_access import READING, AccountChoice, ProgramAccess, WantedCall, reads
from server.proxy.program_hosts import HOST_REFUSED, ApiAddress, HostMap, note_host
from server.proxy.wire import ProxyRefused
from vault.records import Connection
from vault.refusals import ConnectionRequired, DelegationRequired
from vault.spans import REQUEST_ID

_MOST_HOSTS: Final = 100  # hosts that are recorded for one call


class _TurnAccess(ProgramAccess):
    """Decides whether this call may make a request; `missing` is the permission that its person could give."""

    def __init__(self, deployment: Deployment, caller: ToolCaller) -> None:
        super().__init__(
            deployment,
            caller.principal,
            None,
            agent=caller.tool,
            accounts=(caller.account,),
            purpose=caller.tool,
            several=f"Set the account name of the {caller.title} connection to the account that it should use.",
        )
        self._caller = caller
        self.missing: ConnectionRequired | DelegationRequired | None = None

    async def choose(self, found: Sequence[ApiAddress], call: WantedCall) -> AccountChoice:
        try:
            return await super().choose(found, call)
        except (ConnectionRequired, DelegationRequired) as missing:
            self.missing = missing
            raise

    def problem_of_names(self, usable: Sequence[Connection]) -> str | None:
        """None, because the account name of an MCP server only chooses between several accounts."""
        return None

    def rules_for(self, provider: Provider, address: ApiAddress, call: WantedCall) -> list[Rule]:
        """A tool that only reads gets only reading scopes; the call's body selects among the rules later."""
        found = super().rules_for(provider, address, call)
        if not self._caller.only_reads:
            return found
        if call.method in READING:
            return [rule for rule in found if reads(provider, rule)]
        reading = provider.reading_scopes
        return [
            rule.model_copy(update={"scopes": rule.scopes & reading})
            for rule in found
            if not rule.scopes.isdisjoint(reading) and rule.needs <= reading
        ]

    def refusal(self, provider: Provider, address: ApiAddress, call: WantedCall) -> ProxyRefused:
        if not super().rules_for(provider, address, call):
            return super().refusal(provider, address, call)
        return ProxyRefused(
            "call_not_allowed",
            f"{self._caller.tool} was accepted as a tool that only reads, but this {call.method} can change "
            f"something at {provider.title}. An admin can accept it as one that writes. Nothing was sent.",
        )


class HostNotes:
    """Records the hosts that a program called, each once and up to a limit, as for `token-vault run`."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._seen = set[tuple[str, int, str]]()

    def note(self, caller: ToolCaller, host: str, port: int, *, code: str = "") -> None:
        """Record a call to a host; `code` says why it was refused."""
        if (host, port, code) in self._seen or len(self._seen) >= _MOST_HOSTS:
            return
        self._seen.add((host, port, code))
        note_host(self._deployment, caller.principal, host, port, code=code, tool=caller.tool)


class Turn:
    """What a program may do while it carries out one call."""

    def __init__(
        self, deployment: Deployment, caller: ToolCaller, settings: LocalServerSettings, hosts: HostMap
    ) -> None:
        self._deployment = deployment
        self._caller = caller
        self._named = frozenset(settings.hosts)
        self._access = _TurnAccess(deployment, caller)
        self._calls = LocalCalls(deployment, hosts, self._access, tool=caller.tool, request_id=REQUEST_ID.get())
        self._notes = HostNotes(deployment)
        self._has_reached = False

    async def answer(self, call: ProgramCall, exchange: Exchange) -> None:
        """Carry out a request to a provider's host."""
        await self._calls.answer(call, exchange)

    def _answer_count(self) -> int:
        return sum(count for (_, outcome), count in self._calls.counts.items() if outcome != "refused")

    def reaches(self, host: str, port: int) -> bool:
        """Whether the operator named this host."""
        return f"{host}:{port}" in self._named or (host in self._named and port in {80, 443})

    def note_host(self, host: str, port: int, is_reached: bool) -> None:
        """Record that the program called another host."""
        self._has_reached |= is_reached
        self._notes.note(self._caller, host, port, code="" if is_reached else HOST_REFUSED)

    def check_permission(self) -> None:
        """Raise the missing permission if the person could give it and nothing was answered or changed yet."""
        missing = self._access.missing
        if missing is None:
            return
        may_repeat = not (
            self._calls.may_have_changed or self._has_reached
        )  # a call to another host may have changed anything
        if may_repeat and not self._answer_count():
            raise missing
        self._caller.leave_out(MissingPart(missing, may_repeat))

    async def close(self) -> None:
        """End the access that was given for this call."""
        await self._access.close()
