"""A program in its sandbox, for one person and one agent: its start, its session, and its calls, one at a time.

The program has network access only during a call: between calls its proxy refuses everything, and a call's connections
end with it. After an aborted call, the program is ended, since it may still be working on it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import secrets
import shutil
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import Implementation
from pydantic import ValidationError

from providers.api.api import ToolRefused, UpstreamUnavailable
from providers.api.text import as_seen
from providers.outbound.addresses import AddressPolicy
from server.deployment import Deployment, ToolCaller
from server.local_server_settings import MOST_FILES, LocalServerSettings
from server.programs.certificates import RunAuthority
from server.programs.child import wait_or_kill
from server.programs.environment import NODE_PRELOAD, ProgramPlace, aws_configuration, bundle_text, environment_of
from server.programs.front import Front, OtherHosts, ProgramCall
from server.programs.hosted import sandbox
from server.programs.hosted.folders import locked_folder
from server.programs.hosted.stdio import LONGEST, Conversation
from server.programs.hosted.syscalls import call_filter
from server.programs.hosted.turns import HostNotes, Turn
from server.programs.hosted.usage import fills
from server.programs.wire import Exchange
from server.proxy import refusals
from server.proxy.program_hosts import HostMap, host_map
from server.proxy.wire import ProxyRefused

if TYPE_CHECKING:
    from mcp.client.session import ClientSession

_PORT: Final = 3128  # the proxy's, in the sandbox
_START: Final = 60.0  # seconds for the program's first answer
_GOODBYE: Final = 2.0  # seconds to end by itself (MCP, stdio: shutdown)
_OPEN_FILES: Final = 1024
_LARGEST_FILE: Final = 1024 * 1024 * 1024  # bytes
_LINES: Final = 200  # lines that one program may write to the log
_LINE: Final = 500  # characters
_PIECE: Final = 65536  # bytes of standard error
_CONNECTIONS: Final = 64  # from one program to its proxy
_NAMES: Final = 200  # hosts that one program gets certificates for
_IDENTITY: Final = Implementation(name="token-vault", version="1")
_CLOSED: Final = "No tool call is running, so nothing was sent."
logger = logging.getLogger("token_vault.local_servers")


@dataclass(frozen=True, slots=True)
class ProgramKey:
    """The server, user, agent, and account that a process belongs to."""

    server: str
    user_id: str
    client_id: str
    connection_id: str


class HostedProcess:
    """One process, from start to end; `begin` returns immediately."""

    def __init__(
        self, deployment: Deployment, caller: ToolCaller, settings: LocalServerSettings, *, hidden: Sequence[Path]
    ) -> None:
        self.caller = caller
        self.deployment = deployment
        self.settings = settings
        self.used_at = asyncio.get_running_loop().time()
        self.pid: int | None = None
        self.said: list[str] = []  # the last lines on standard error
        self._hidden = hidden
        self._turn: Turn | None = None
        self._notes = HostNotes(deployment)  # for the time between two calls
        self._waiting = 0
        self._one = asyncio.Lock()
        self._session: ClientSession | None = None
        self._answers = asyncio.Event()  # the program answered, or ended before it did
        self._ending = asyncio.Event()
        self._is_wanted_end = False
        self._is_urgent = False
        self._starting: asyncio.Timeout | None = None
        self._conversation: Conversation | None = None
        self._lines = 0
        self._hosts = _hosts_of(deployment, settings)
        self._front: Front | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start the process."""
        alone = Context()  # later work must not count as part of the request that started it
        self._task = asyncio.create_task(self._live(), name=f"local server {self.caller.server}", context=alone)

    @property
    def is_idle(self) -> bool:
        return self._waiting == 0

    @property
    def has_ended(self) -> bool:
        return self._task is not None and self._task.done()

    @property
    def is_ending(self) -> bool:
        return self.has_ended or self._ending.is_set()

    @property
    def _is_lost(self) -> bool:
        return self._conversation is not None and self._conversation.has_ended

    @property
    def has_crashed(self) -> bool:
        """Whether it ended, or is being ended, through its own fault."""
        return self.is_ending and not self._is_wanted_end

    def end(self, *, is_urgent: bool = False) -> None:
        """Ask the process to end, even while it starts; an urgent end gives it no time."""
        if not self.is_ending:
            self._is_wanted_end = True
        self._is_urgent |= is_urgent
        self._break_off()

    async def stop(self) -> None:
        """End the process, and wait until it is gone."""
        self.end()
        if self._task is not None:
            await asyncio.wait([self._task])

    def _break_off(self) -> None:
        self._ending.set()
        if self._starting is not None and not self._starting.expired():
            self._starting.reschedule(asyncio.get_running_loop().time())
            self._starting = None

    def _end_for(self, excess: str) -> None:
        self._say(f"stopped: {excess}")
        self._is_urgent = True
        self._break_off()

    @asynccontextmanager
    async def turn(self, caller: ToolCaller) -> AsyncGenerator[ClientSession]:
        """The session, for one tool call at a time. Raises UpstreamUnavailable, or the permission that is missing."""
        self._waiting += 1
        try:
            async with self._one:
                await self.refuse_full_folder()
                session, front = await self._wait_for_session()
                self.caller = caller
                self._turn = turn = Turn(self.deployment, caller, self.settings, self._hosts)
                is_over = False
                try:
                    yield session
                    is_over = True
                except MCPError as error:
                    is_over = True
                    if self._is_lost or self.is_ending:
                        self._break_off()
                        raise self._lost_call() from error
                    raise
                except (ToolRefused, ValidationError):
                    is_over = True
                    raise
                finally:
                    self._turn, self._notes = None, HostNotes(self.deployment)
                    if not is_over:
                        self.end()
                    await front.end_connections()
                    await turn.close()
                    self.used_at = asyncio.get_running_loop().time()
                turn.check_permission()
        finally:
            self._waiting -= 1

    async def refuse_full_folder(self) -> None:
        """Raise UpstreamUnavailable if the program's own folder is full."""
        if await self.has_full_folder():
            raise UpstreamUnavailable(
                f"The folder of {self.caller.title} is full: {self.full_folder}. Nothing was called. An admin can "
                "remove files there or raise writable_mb.",
                unknown_outcome=False,
            )

    @property
    def full_folder(self) -> str:
        """What a full folder is, in words."""
        return (
            f"it has {self.settings.writable_mb} MiB, {MOST_FILES:,} files, too many levels of folders, or one that "
            "can't be read"
        )

    async def has_full_folder(self) -> bool:
        """Whether the program's own writable folder has reached the limit in the settings."""
        own = self._own_folder()
        most = self.settings.writable_mb * 1024 * 1024
        return own is not None and await asyncio.to_thread(fills, own, most, most_entries=MOST_FILES)

    async def _wait_for_session(self) -> tuple[ClientSession, Front]:
        await self._answers.wait()
        if self._session is not None and self.is_ending:
            raise UpstreamUnavailable(
                f"{self.caller.title} was stopped while this call waited, so nothing was called. Try again.",
                unknown_outcome=False,
            )
        if self._session is None or self._front is None:
            raise UpstreamUnavailable(
                f"{self.caller.title} didn't start, so nothing was called. An admin can find the cause in the log.",
                unknown_outcome=False,
            )
        return self._session, self._front

    def _lost_call(self) -> UpstreamUnavailable:
        text = f"{self.caller.title} ended during the call. It may have been carried out. Check before you try again."
        return UpstreamUnavailable(text, unknown_outcome=True)

    async def _live(self) -> None:
        try:
            with locked_folder() as folder:
                try:
                    await self._run(folder)
                finally:
                    self._answers.set()
                    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        except (OSError, TimeoutError, MCPError, EOFError) as error:
            if not self.is_ending:
                self._say(f"didn't start: {type(error).__name__}")
        except Exception:  # the outermost handler of a process
            logger.exception("a local server failed", extra={"server": self.caller.server})
        finally:
            self._answers.set()

    async def _run(self, folder: Path) -> None:
        authority = RunAuthority(self._hosts.domains, folder=folder, most=_NAMES)
        self._front = front = Front(self._hosts, authority, self._answer, self._others(), most=_CONNECTIONS)
        shared = folder / "shared"
        shared.mkdir()
        order = self._order(_place(front.url_at(_PORT), authority, shared))
        ours, theirs = socket.socketpair()
        with ours:
            process = await self._spawn(shared, theirs)
            if process.stdin is None or process.stdout is None or process.stderr is None:
                raise EOFError("no pipes")  # can't happen: the pipes were requested
            self.pid = process.pid
            errors = asyncio.create_task(self._read_errors(process.stderr, front))
            receiving: asyncio.Task[socket.socket] | None = None
            try:
                self._conversation = conversation = Conversation(
                    process.stdout,
                    process.stdin,
                    mask=front.mask_password,
                    on_noise=lambda line: self._note(f"printed: {line}"),
                    on_excess=self._end_for,
                )
                async with asyncio.timeout(_START) as self._starting:
                    if self._ending.is_set():
                        return
                    receiving = asyncio.create_task(asyncio.to_thread(_receive_port, ours, order))
                    async with front.listen(await asyncio.shield(receiving)):
                        client = Client(conversation.open(), mode="auto", cache=None, client_info=_IDENTITY)
                        await self._talk(client, process, conversation)
            finally:
                self._starting = None
                is_known = self._session is not None and not self._is_urgent
                await _end(process, patience=_GOODBYE if is_known else 0)
                if receiving is not None:
                    with suppress(OSError, EOFError):  # the sandbox is gone, so the thread is ending
                        (await receiving).close()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_GOODBYE):
                        await errors
                self.pid = None
                if self._session is not None and not self._is_wanted_end and not self._is_urgent:
                    self._say(f"ended by itself with code {process.returncode}")

    async def _talk(self, client: Client, process: asyncio.subprocess.Process, conversation: Conversation) -> None:
        async with client:
            if self._starting is not None:
                self._starting.reschedule(None)
                self._starting = None
            self._session = client.session
            self._answers.set()
            waiting = [asyncio.create_task(self._ending.wait()), asyncio.create_task(process.wait())]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                conversation.has_ended = True
                for one in waiting:
                    one.cancel()

    async def _spawn(self, shared: Path, theirs: socket.socket) -> asyncio.subprocess.Process:
        room = sandbox.Room(shared, self.settings.folders, self._writable(), hidden=self._hidden)
        with theirs, ExitStack() as stack:
            calls = call_filter()
            filter_fd = None if calls is None else stack.enter_context(sandbox.in_memory(calls))
            options = "\0".join(sandbox.options(room, filter_fd=filter_fd))
            options_fd = stack.enter_context(
                sandbox.in_memory(options.encode())
            )  # so that the program doesn't see them
            inside_fd = theirs.fileno()
            return await asyncio.create_subprocess_exec(
                *(sandbox.wrapper(), "--args", str(options_fd), "--", str(sandbox.interpreter())),
                *("-I", "-S", str(sandbox.SHARED / "inside.py"), str(inside_fd)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={"PATH": sandbox.PATH},
                cwd="/",
                pass_fds=[inside_fd, options_fd, *([] if filter_fd is None else [filter_fd])],
                start_new_session=True,
                limit=LONGEST,
            )

    def _writable(self) -> tuple[Path, Path] | None:
        """The writable folder's path in the sandbox, and this process's real part of it, which is created."""
        folder, own = self.settings.writable, self._own_folder()
        if folder is None or own is None:
            return None
        own.mkdir(mode=0o700, exist_ok=True)
        return folder, own

    def _own_folder(self) -> Path | None:
        """The part of the writable folder that belongs to this server, person, and agent."""
        if self.settings.writable is None:
            return None
        who = f"{self.caller.server}\0{self.caller.principal.user_id}\0{self.caller.principal.client_id}".encode()
        return self.settings.writable / hashlib.sha256(who).hexdigest()[:32]

    def _order(self, place: ProgramPlace) -> bytes:
        """The arguments for `inside`."""
        settings = self.settings
        declared = {**sandbox.base_environment(), **settings.environment}
        environment = environment_of(declared, place, self._hosts.providers, own=frozenset[str]())
        given = {name: text for name, text in settings.environment.items() if environment[name] == place.placeholder}
        environment |= {**given, **dict.fromkeys(settings.placeholders, place.placeholder)}
        limits = {
            "memory": settings.memory_mb * 1024 * 1024,
            "processes": settings.processes,
            "cpu": settings.cpu_seconds,
            "files": _OPEN_FILES,
            "core": 0,
            "file": _LARGEST_FILE,
        }
        wanted = {
            "command": [settings.command, *settings.args],
            "environment": environment,
            "limits": limits,
            "port": _PORT,
            "folder": str(settings.writable or sandbox.HOME),
        }
        return json.dumps(wanted).encode() + b"\n"

    def _others(self) -> OtherHosts:
        deployment = self.deployment
        return OtherHosts(
            are_allowed=False,
            policy=AddressPolicy(allow_loopback=deployment.settings.sandbox.loopback_upstreams),
            told=self._note_host,
            are_ours=_none,
            proxy=deployment.settings.outbound.proxy_address(),
            is_open=lambda: self._turn is not None,
            is_named=lambda host, port: self._turn is not None and self._turn.reaches(host, port),
            why_not=f"no tool call is running, or {self.caller.server} isn't set up to call it",
        )

    async def _answer(self, call: ProgramCall, exchange: Exchange) -> None:
        turn = self._turn
        if turn is not None:
            await turn.answer(call, exchange)
            return
        self._notes.note(self.caller, call.host, call.port, code="no_tool_call")
        found = self._hosts.at(call.host, call.port)
        provider = self.deployment.catalog.get(found[0].provider) if found else None
        await refusals.send(exchange.send, ProxyRefused("call_not_allowed", _CLOSED), provider)

    def _note_host(self, host: str, port: int, is_reached: bool) -> None:
        if self._turn is not None:
            self._turn.note_host(host, port, is_reached)
        else:
            self._notes.note(self.caller, host, port, code="no_tool_call")

    async def _read_errors(self, reader: asyncio.StreamReader, front: Front) -> None:
        rest = b""
        while piece := await reader.read(_PIECE):
            written = front.mask_password(rest + piece)  # before anything is cut: a cut could leave half a password
            if self._lines > _LINES:  # the log has enough: keep only the end
                rest = written[-_LINE:]
                continue
            *lines, rest = written.split(b"\n", _LINES + 1)
            for line in lines:
                self._note(line.decode(errors="replace"))
            rest = rest[-_PIECE:]
        for line in rest[-_LINE:].splitlines():
            self._note(line.decode(errors="replace"))

    def _note(self, line: str) -> None:
        """Log a line that the program wrote, within limits."""
        line = line[: 4 * _LINE]
        text = as_seen(line.rstrip(), limit=_LINE)
        self.said = [*self.said[-4:], text]
        self._lines += 1
        if self._lines <= _LINES:
            logger.info("a local server wrote", extra={"server": self.caller.server, "text": text})
        elif self._lines == _LINES + 1:
            logger.warning("a local server wrote too much; the rest is left out", extra={"server": self.caller.server})

    def _say(self, text: str) -> None:
        logger.warning("a local server failed", extra={"server": self.caller.server, "cause": text, "wrote": self.said})


async def _none(addresses: object) -> bool:
    return False


def _hosts_of(deployment: Deployment, settings: LocalServerSettings) -> HostMap:
    found = [deployment.catalog.get(name) for name in settings.providers]
    return host_map(deployment, [one for one in found if one is not None])


def _place(proxy: str, authority: RunAuthority, shared: Path) -> ProgramPlace:
    """Write the files that the program reads, and return where it finds them."""
    sandbox.write_names(shared)
    texts = {
        "bundle.pem": bundle_text(authority.pem, has_system_roots=False),
        "authority.pem": authority.pem,
        "aws": aws_configuration({"HOME": "/nonexistent"}),
        "proxy.cjs": NODE_PRELOAD.read_text(encoding="utf-8"),
        "inside.py": (Path(__file__).parent / "inside.py").read_text(encoding="utf-8"),
    }
    for name, text in texts.items():
        (shared / name).write_text(text, encoding="utf-8")
    there = sandbox.SHARED
    return ProgramPlace(
        proxy,
        there / "bundle.pem",
        there / "authority.pem",
        there / "aws",
        f"token-vault-{secrets.token_hex(16)}",
        preload=there / "proxy.cjs",
    )


def _receive_port(ours: socket.socket, order: bytes) -> socket.socket:
    """Tell `inside` what to run, and get the socket that listens in the sandbox. Raises OSError and EOFError."""
    ours.settimeout(_START)
    ours.sendall(order)
    _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise EOFError("the sandbox ended")
    os.set_inheritable(descriptors[0], False)
    listening = socket.socket(fileno=descriptors[0])
    listening.setblocking(False)
    return listening


async def _end(process: asyncio.subprocess.Process, *, patience: float) -> None:
    """Close the program's input, and kill it if it doesn't end; everything in the sandbox ends with it."""
    if process.stdin is not None:
        process.stdin.close()
    await wait_or_kill(process, patience=patience, is_group=True)
