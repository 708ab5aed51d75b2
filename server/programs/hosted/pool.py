"""The processes of all local servers: started on demand, ended when idle, too large, or no longer allowed.

Their number is limited, and one person can have at most half of them. A process that ended by itself is started again
at the next call, after a delay that grows each time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Context
from pathlib import Path
from typing import TYPE_CHECKING, Final

from providers.api.api import UpstreamUnavailable
from server.deployment import Deployment, ToolCaller
from server.programs.hosted.folders import remove_left
from server.programs.hosted.process import HostedProcess, ProgramKey
from server.programs.hosted.sandbox import SandboxProblem, find_problem, setting_problem
from server.programs.hosted.syscalls import call_filter
from server.programs.hosted.usage import usage_of
from server.settings import Settings
from vault import delegations, grants, shared_connections
from vault.refusals import VaultError

if TYPE_CHECKING:
    from mcp.client.session import ClientSession

_LOOK: Final = 2.0  # seconds between two checks of the processes
_LONGEST_WAIT: Final = 60.0  # seconds to wait after failures
_MOST_REMEMBERED: Final = 1000  # failures
_MIB: Final = 1024 * 1024
logger = logging.getLogger("token_vault.local_servers")


class HostedServers:
    """The local servers of one vault process."""

    def __init__(self, settings: Settings, *, hidden: Sequence[Path]) -> None:
        self._declared = settings.local_servers
        self._most = settings.tools.local_processes
        self._hidden = hidden  # paths that programs never see
        self._processes: dict[ProgramKey, HostedProcess] = {}
        self._failures: dict[ProgramKey, tuple[int, float]] = {}  # their number, and the earliest next start
        self._is_usable = False
        self._trying = asyncio.Lock()
        self._starting = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self._ended = set[asyncio.Task[None]]()

    @property
    def live(self) -> tuple[HostedProcess, ...]:
        """The processes that weren't asked to end."""
        return tuple(one for one in self._processes.values() if not one.is_ending)

    @property
    def is_filtered(self) -> bool:
        """Whether there is a system call filter for this machine."""
        return call_filter() is not None

    async def problem(self) -> SandboxProblem | None:
        """Why no program can be started here; checked again until there is no problem."""
        async with self._trying:
            if self._is_usable:
                return None
            found = await asyncio.to_thread(find_problem)
            self._is_usable = found is None
            return found

    def setting_problem(self, program: str) -> SandboxProblem | None:
        """Why this machine can't run a program as the settings declare it; None if it can."""
        return setting_problem(self._declared[program])

    def open(
        self, deployment: Deployment, caller: ToolCaller, program: str
    ) -> Callable[[], AbstractAsyncContextManager[ClientSession]]:
        """A function that opens this caller's session with this program."""

        @asynccontextmanager
        async def session() -> AsyncGenerator[ClientSession]:
            process = await self._process(deployment, caller, program)
            async with process.turn(caller) as opened:
                yield opened
            self._failures.pop(_key_of(caller), None)

        return session

    async def close(self) -> None:
        """End all processes."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        await asyncio.gather(*(one.stop() for one in self._processes.values()), *self._ended)
        self._processes.clear()

    async def _process(self, deployment: Deployment, caller: ToolCaller, program: str) -> HostedProcess:
        """The running process, or a new one. Raises UpstreamUnavailable."""
        settings = self._declared.get(program)
        if settings is None:
            raise _unavailable(f"{caller.title} is no longer in the settings.")
        if (found := await self.problem()) is not None:
            logger.error("no sandbox", extra={"server": caller.server, "cause": str(found)})
            raise _unavailable(f"{caller.title} can't be started. An admin can run token-vault doctor.")
        if (known := self._find(caller)) is not None:
            return known
        made = HostedProcess(deployment, caller, settings, hidden=self._hidden)
        await made.refuse_full_folder()  # reads the whole folder
        async with self._starting:
            return await self._find_or_start(made, caller)

    def _find(self, caller: ToolCaller) -> HostedProcess | None:
        """The running process; None if one may be started now. Raises UpstreamUnavailable."""
        key = _key_of(caller)
        known = self._processes.get(key)
        if known is not None and not known.is_ending:
            return known
        if known is not None:
            self._note_end(key, known)
        self._check_wait(key, caller)
        return None

    async def _find_or_start(self, made: HostedProcess, caller: ToolCaller) -> HostedProcess:
        if (known := self._find(caller)) is not None:
            return known
        if self._watch is None:
            await asyncio.to_thread(remove_left)
        await self._make_room(caller)
        self._processes[_key_of(caller)] = made
        made.begin()
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._look(), context=Context())
        return made

    def _note_end(self, key: ProgramKey, process: HostedProcess) -> None:
        if self._processes.get(key) is not process:
            return
        del self._processes[key]
        if process.has_crashed:
            count = self._failures.get(key, (0, 0.0))[0] + 1
            wait = min(_LONGEST_WAIT, float(2**count))
            while len(self._failures) >= _MOST_REMEMBERED:
                del self._failures[next(iter(self._failures))]
            self._failures[key] = count, asyncio.get_running_loop().time() + wait
        if not process.has_ended:
            self._let_end(process)

    def _let_end(self, process: HostedProcess, *, is_urgent: bool = False) -> None:
        process.end(is_urgent=is_urgent)
        task = asyncio.create_task(process.stop())
        self._ended.add(task)
        task.add_done_callback(self._ended.discard)

    def _check_wait(self, key: ProgramKey, caller: ToolCaller) -> None:
        count, until = self._failures.get(key, (0, 0.0))
        left = until - asyncio.get_running_loop().time()
        if count > 1 and left > 0:
            raise _unavailable(f"{caller.title} ended {count} times by itself. Try again in {int(left) + 1} s.")

    async def _make_room(self, caller: ToolCaller) -> None:
        """If the limit is reached, end the longest idle process: one of this person's if they have their share."""
        own = [one for one in self.live if one.caller.principal.user_id == caller.principal.user_id]
        share = max(1, self._most // 2)
        has_share = len(own) >= share
        if not has_share and len(self.live) < self._most:
            return
        idle = [one for one in (own if has_share else self.live) if one.is_idle]
        if not idle:
            whose = f"{share} of this person's" if has_share else f"{self._most}"
            raise _unavailable(f"{caller.title} can't be started now: {whose} programs are busy. Try again.")
        await min(idle, key=lambda one: one.used_at).stop()

    async def _look(self) -> None:
        """Check all processes until the last one has ended."""
        while self._processes:
            await asyncio.sleep(_LOOK)
            for key, process in [*self._processes.items()]:
                try:
                    await self._look_at(key, process)
                except Exception:  # the outermost handler: the other processes still need the watch
                    logger.exception("a local server can't be watched", extra={"server": key.server})

    async def _look_at(self, key: ProgramKey, process: HostedProcess) -> None:
        if process.is_ending:
            self._note_end(key, process)
        elif (reason := await self._reason_to_end(process)) is not None:
            if reason:
                logger.warning("ending a local server", extra={"server": key.server, "cause": reason})
            self._let_end(process, is_urgent=bool(reason))

    async def _reason_to_end(self, process: HostedProcess) -> str | None:
        """Why the process should end now, empty for an ordinary reason; None if it may stay."""
        settings, pid = process.settings, process.pid
        if pid is not None:
            used = await asyncio.to_thread(usage_of, pid)
            if used.memory > settings.memory_mb * _MIB:
                return f"it uses {used.memory // _MIB} MiB, more than memory_mb"
            if used.processes > settings.processes + 2:  # bubblewrap's own
                return f"it has {used.processes} processes, more than allowed"
        if await process.has_full_folder():
            return f"its folder is full: {process.full_folder}"
        if process.is_idle and asyncio.get_running_loop().time() - process.used_at > settings.idle_seconds:
            return ""
        try:
            return None if await _may_stay(process) else ""
        except VaultError:  # the database can't be reached, so no call arrives
            return None


def _key_of(caller: ToolCaller) -> ProgramKey:
    who = caller.principal
    return ProgramKey(caller.server, who.user_id, who.client_id, caller.connection_id)


async def _may_stay(process: HostedProcess) -> bool:
    """Whether the person, agent, permission, account, and server are unchanged."""
    deployment, caller = process.deployment, process.caller
    who, now = caller.principal, deployment.now()
    server = deployment.catalog.remote.get(caller.server)
    if server is None or server.is_disabled:
        return False
    if await grants.live_principal_facts(deployment.database, who.grant_id) is None:
        return False
    held = await delegations.list_for_client(deployment.database, who.user_id, client_id=who.client_id)
    if not any(one.connection_id == caller.connection_id and one.is_live(now) for one in held):
        return False
    usable = await shared_connections.usable_by(deployment.database, who.user_id, now=now)
    return any(one.id == caller.connection_id for one in usable)


def _unavailable(text: str) -> UpstreamUnavailable:
    return UpstreamUnavailable(f"{text} Nothing was called.", unknown_outcome=False)
