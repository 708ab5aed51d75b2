"""The work in progress in one process: running refreshes, their order, and the pauses that providers asked for.

This module only decides who waits for whom. `vault.refresh.rotation` refreshes; `vault.refresh.leases` excludes other
processes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from vault.audit.audit import Activity
from vault.classes.immutable import immutable
from vault.keys.key_ring import KeyRing
from vault.refresh.breakers import Breakers
from vault.refresh.journal import Journal
from vault.refresh.mint import Mint
from vault.refresh.policy_checks import PolicyCheck
from vault.refresh.references import References
from vault.refusals import VaultError
from vault.scopes import scope_key
from vault.storage.database import Database, Transaction
from vault.upstream import IdentityAssertions, UpstreamOAuth, UpstreamPolicy

log = logging.getLogger("token_vault.rotation")

R = TypeVar("R")
TIDYING = 0.5  # seconds that shutdown waits for work that no caller waits for


def growing_waits(wait: float, longest: float) -> Iterator[float]:
    """Waits between attempts, each twice as long as the one before, up to the longest."""
    while True:
        yield wait
        wait = min(wait * 2, longest)


@immutable
class UpstreamTokenRequest:
    """A token newer than `generation`: the full one, or one of exactly these scopes (and for this one item)."""

    connection_id: str
    generation: int
    scopes: frozenset[str] | None = None
    item: str | None = None
    spoiled: int = 0  # up to this generation the API refused full access tokens, whatever their expiry says

    @property
    def scope_key(self) -> str:
        return "" if self.scopes is None else scope_key(self.scopes, self.item)


class RefreshTimers:
    """Timers for refreshes ahead without a caller: one per used token, near the end of its life.

    A caller that calls repeatedly, at any pace, therefore finds a valid token; an unused one is left to expire.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], tuple[int, asyncio.TimerHandle]] = {}

    def __len__(self) -> int:
        return len(self._made)

    def is_made(self, connection_id: str, key: str, *, generation: int) -> bool:
        """Whether this exact token has a timer."""
        known = self._made.get((connection_id, key))
        return known is not None and known[0] >= generation

    def make(self, request: UpstreamTokenRequest, *, after: float, keep: Callable[[], None]) -> None:
        """Call `keep` in this many seconds, replacing the timer of an older token."""
        key = (request.connection_id, request.scope_key)
        known = self._made.get(key)
        if known is not None:
            known[1].cancel()

        def due() -> None:
            del self._made[key]
            keep()

        self._made[key] = (request.generation, asyncio.get_running_loop().call_later(after, due))

    def cancel(self) -> None:
        """Cancel all timers."""
        for _, timer in self._made.values():
            timer.cancel()
        self._made.clear()


class _Pause(NamedTuple):
    until: int
    generation: int
    why: str


class RefreshTasks:
    """The refreshes of this process: one task per connection and scope set, one send at a time per connection.

    `waits` counts the exchanges that had to wait for a refresh; `server_changes` are the database's changes handled so
    far.
    """

    def __init__(self) -> None:
        self.breakers = Breakers()
        self.watches = Watches()
        self.queues = RefreshQueues()
        self.timers = RefreshTimers()
        self.waits = 0
        self.has_traces = True  # whether files may hold destroyed values: unknown at start
        self.server_changes = 0
        self.owed: dict[
            str, list[Callable[[Transaction], Awaitable[None]]]
        ] = {}  # by connection, see `vault.refresh.attempts`
        self._tasks: dict[tuple[str, str], asyncio.Task[int | VaultError]] = {}
        self._tidying: set[asyncio.Task[None]] = set()
        self._finishing: dict[str, set[asyncio.Task[Any]]] = {}  # whatever their results
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}
        self._pauses: dict[tuple[str, str], _Pause] = {}
        self._refused: dict[tuple[str, str], int] = {}
        self.unvouched: dict[tuple[str, str], str] = {}  # by user and provider, see `vault.refresh.company`

    def join(
        self, request: UpstreamTokenRequest, fly: Callable[[], Coroutine[None, None, int | VaultError]]
    ) -> asyncio.Task[int | VaultError]:
        """The task that fetches this token, started with `fly` if there is none. No caller can cancel it."""
        key = (request.connection_id, request.scope_key)
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(fly())
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._forget_task(key, done))
        return task

    def _forget_task(self, key: tuple[str, str], task: asyncio.Task[int | VaultError]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("refresh broke", extra={"connection": key[0]}, exc_info=error)

    def tidy(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run something in the background that callers don't need to wait for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tidying.add(task)
        task.add_done_callback(self._tidying.discard)
        return task

    def finish(self, name: str, work: Coroutine[None, None, R]) -> asyncio.Task[R]:
        """Start work that no caller can cancel and that shutdown waits for; `name` identifies what it finishes."""
        task = asyncio.get_running_loop().create_task(work)
        self._finishing.setdefault(name, set()).add(task)
        task.add_done_callback(lambda done: self._forget_finishing(name, done))
        return task

    def _forget_finishing(self, name: str, task: asyncio.Task[R]) -> None:
        rest = self._finishing.get(name, set())
        rest.discard(task)
        if not rest:
            self._finishing.pop(name, None)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, VaultError):
            log.error("background work broke", extra={"work": name}, exc_info=error)

    def is_finishing(self, name: str) -> bool:
        """Whether that work is running in this process."""
        return name in self._finishing

    async def wait_until_finished(self, name: str, *, patience: float) -> None:
        """Wait until that work is done, at most this long."""
        if tasks := set(self._finishing.get(name, ())):
            await asyncio.wait(tasks, timeout=patience)

    async def take_turn(self, connection_id: str, work: Callable[[], Awaitable[R]]) -> R:
        """Run after every earlier refresh of the same connection in this process."""
        lock, users = self._turns.get(connection_id, (asyncio.Lock(), 0))
        self._turns[connection_id] = (lock, users + 1)
        try:
            async with lock:
                return await work()
        finally:
            lock, users = self._turns[connection_id]
            if users == 1:
                del self._turns[connection_id]
            else:
                self._turns[connection_id] = (lock, users - 1)

    def pause(self, request: UpstreamTokenRequest, *, until: int, generation: int, why: str = "") -> None:
        """Do not request this token before `until`, unless a newer `generation` shows that the provider works.

        `why` is a sentence for callers who request it in the meantime.
        """
        self._pauses[request.connection_id, request.scope_key] = _Pause(until, generation, why)

    def why_paused(self, request: UpstreamTokenRequest) -> str:
        """The sentence of the pause that `seconds_paused` found."""
        return self._pauses[request.connection_id, request.scope_key].why

    def seconds_paused(self, request: UpstreamTokenRequest, *, now: int, generation: int = 0) -> int:
        """Seconds until this token may be fetched; 0 when it may be now. `generation` is the row's, if known."""
        key = (request.connection_id, request.scope_key)
        pause = self._pauses.get(key)
        if pause is not None and pause.until > now and generation <= pause.generation:
            return pause.until - now
        self._pauses.pop(key, None)
        return 0

    def refuse_narrowing(self, request: UpstreamTokenRequest, *, until: int) -> None:
        """Don't ask again before `until`: the provider issues no token for only these scopes."""
        self._refused[request.connection_id, request.scope_key] = until

    def refuses_narrowing(self, connection_id: str, key: str, *, now: int) -> bool:
        """Whether the provider recently refused to issue a token for only the scopes behind this key."""
        if self._refused.get((connection_id, key), now) > now:
            return True
        self._refused.pop((connection_id, key), None)
        return False

    async def close(self, *, patience: float = 15.0) -> None:
        """Let running refreshes store their answers, at most this long; cancel the timers."""
        self.timers.cancel()
        self.queues.clear()
        running = {*self._tasks.values(), *(task for tasks in self._finishing.values() for task in tasks)}
        if running:
            await asyncio.wait(running, timeout=patience)
        if self._tidying:
            tidying = set(self._tidying)
            _, late = await asyncio.wait(tidying, timeout=TIDYING)
            for task in late:
                task.cancel()


@immutable
class Vault:
    """The dependencies of exchanging and refreshing. `owner` is random per process."""

    database: Database
    keys: KeyRing
    activity: Activity
    policies: Mapping[str, UpstreamPolicy]
    upstreams: Mapping[str, UpstreamOAuth]
    tasks: RefreshTasks
    journal: Journal
    owner: str
    issuer: str = ""  # of signed receipts
    mint: Mint | None = None  # for APIs that accept tokens of ours
    policy_check: PolicyCheck | None = None  # the operator's own policy, which can only forbid
    assertions: IdentityAssertions | None = None  # of identity providers that vouch for people
    references: References | None = None  # to secrets that are kept elsewhere

    def upstream_of(self, provider: str) -> UpstreamOAuth | None:
        """The client of a provider that the operator has set up."""
        upstream = self.upstreams.get(provider)
        return upstream if upstream is not None and upstream.is_configured else None

    def policy_of(self, provider: str, renewed_by: str | None) -> UpstreamPolicy:
        """The policy of a provider for a connection; `renewed_by`: the connection whose assertions renew it, if any."""
        return (self.policies.get(provider) or UpstreamPolicy(provider)).for_renewal(renewed_by)


PLACES = 96  # refreshes in progress


AHEAD = 24  # number of those that no caller waits for


@dataclass(slots=True)
class _Queue:
    places: asyncio.Semaphore
    ahead: int = 0  # queued refreshes that are running
    pending: deque[tuple[Hashable, Callable[[], asyncio.Task[object]]]] = field(
        default_factory=deque[tuple[Hashable, Callable[[], "asyncio.Task[object]"]]]
    )
    queued: set[Hashable] = field(default_factory=set[Hashable])


class RefreshQueues:
    """The refresh slots of one process."""

    def __init__(self, *, places: int = PLACES, ahead: int = AHEAD) -> None:
        self._places = places
        self._ahead = ahead
        self._queues: dict[str, _Queue] = {}

    def _queue_of(self, provider: str) -> _Queue:
        queue = self._queues.get(provider)
        if queue is None:
            queue = self._queues[provider] = _Queue(asyncio.Semaphore(self._places))
        return queue

    async def enter(self, provider: str, *, patience: float) -> bool:
        """Take a slot; returns whether it was free at once. If not, earlier reads may be stale. Raises TimeoutError."""
        places = self._queue_of(provider).places
        if not places.locked():
            await places.acquire()
            return True
        async with asyncio.timeout(patience):
            await places.acquire()
        return False

    def leave(self, provider: str) -> None:
        """Release the slot."""
        self._queue_of(provider).places.release()

    def queue(self, provider: str, name: Hashable, start: Callable[[], asyncio.Task[object]]) -> None:
        """Start a refresh that no caller waits for when its turn comes; queues it only once."""
        queue = self._queue_of(provider)
        if name in queue.queued:
            return
        queue.queued.add(name)
        queue.pending.append((name, start))
        self._start(queue)

    def clear(self) -> None:
        """Clear the queue."""
        for queue in self._queues.values():
            queue.pending.clear()
            queue.queued.clear()

    def _start(self, queue: _Queue) -> None:
        while queue.pending and queue.ahead < self._ahead:
            name, start = queue.pending.popleft()
            queue.queued.discard(name)
            queue.ahead += 1
            start().add_done_callback(lambda _: self._start_next(queue))

    def _start_next(self, queue: _Queue) -> None:
        queue.ahead -= 1
        self._start(queue)


ROOM = 10_000  # most things to watch at a time; beyond that the oldest are dropped, which only delays a reaction


class Watches:
    """What one process is watching, and since when."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[object, int]] = {}

    def seconds(self, name: str, what: object, *, now: int) -> int:
        """Seconds for which `what` has been unchanged under this name; 0 at the first look."""
        known, since = self._since.get(name, (None, now))
        if known != what or since > now:
            self._since.pop(name, None)
            while len(self._since) >= ROOM:
                del self._since[next(iter(self._since))]
            self._since[name] = (what, now)
            return 0
        return now - since

    def forget(self, name: str) -> None:
        """Stop watching."""
        self._since.pop(name, None)
