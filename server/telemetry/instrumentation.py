"""Wrappers that measure the deployment's database and HTTP client, and delegate to the real ones."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import CoroutineType
from typing import Any, TypeAlias, TypeVar

from providers.outbound.client import Outbound
from providers.outbound.messages import OutboundRequest, OutboundResponse
from providers.outbound.sessions import StreamedAnswer
from server.telemetry.meters import Meters, class_of, code_of, names_of
from vault.spans import Attribute
from vault.storage.database import NO_PARAMETERS, Database, Program, Row, Transaction, Value
from vault.storage.event_chain import Batch

T = TypeVar("T")
Answer: TypeAlias = "CoroutineType[Any, Any, T]"  # of a function that only forwards


class ObservedDatabase:
    """Counts events when they are committed, and times what waits for the database. A `Database`."""

    def __init__(self, real: Database, meters: Meters) -> None:
        self._real = real
        self._meters = meters
        self.now = real.now

    def fetch(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Answer[Sequence[Row]]:
        return self._measure("read", self._real.fetch(sql, parameters))

    def fetch_one(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Answer[Row | None]:
        return self._measure("read", self._real.fetch_one(sql, parameters))

    async def look_up(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Sequence[Row]:
        """Each call has one, which `_measure` would make slower by a further frame."""
        began = time.perf_counter()
        try:
            found = await self._real.look_up(sql, parameters)
        except BaseException as error:
            self._meters.end_storage("look_up", began, error)
            raise
        self._meters.end_storage("look_up", began)
        return found

    async def perform(self, program: Program[T], *, events: Batch | None = None) -> T:
        result = await self._measure("write", self._real.perform(program, events=events))
        if events is not None and result:
            self._meters.count(events.entries)
        return result

    async def append_events(self, batch: Batch) -> None:
        await self._measure("append", self._real.append_events(batch))
        self._meters.count(batch.entries)

    async def _measure(self, operation: str, work: Awaitable[T]) -> T:
        began = time.perf_counter()
        try:
            found = await work
        except BaseException as error:
            self._meters.end_storage(operation, began, error)
            raise
        self._meters.end_storage(operation, began)
        return found

    @asynccontextmanager
    async def transaction(self, *, patient: bool = False, alone: bool = False) -> AsyncGenerator[Transaction]:
        began, operation = time.perf_counter(), "bulk" if patient else "transaction"
        try:
            async with self._real.transaction(patient=patient, alone=alone) as real:
                watched = _ObservedTransaction(real)
                yield watched
        except BaseException as error:
            self._meters.end_storage(operation, began, error)
            raise
        self._meters.end_storage(operation, began)
        for batch in watched.batches:
            self._meters.count(batch.entries)

    def mark(self) -> object | None:
        return self._real.mark()

    async def hold_liveness(self, owner: str) -> None:
        await self._real.hold_liveness(owner)

    async def is_dead(self, owner: str, *, certainly: bool = False) -> bool:
        return await self._real.is_dead(owner, certainly=certainly)

    async def wipe(self) -> bool:
        return await self._real.wipe()

    async def count_others(self) -> int:
        return await self._real.count_others()

    async def close(self) -> None:
        await self._real.close()

    @property
    def server_changes(self) -> int:
        return self._real.server_changes

    @property
    def is_pooled(self) -> bool:
        return self._real.is_pooled

    @property
    def clock_offset(self) -> int:
        return self._real.clock_offset

    @clock_offset.setter
    def clock_offset(self, seconds: int) -> None:
        self._real.clock_offset = seconds

    @property
    def event_key(self) -> bytes | None:
        return self._real.event_key

    @event_key.setter
    def event_key(self, key: bytes | None) -> None:
        self._real.event_key = key

    @property
    def fingerprint(self) -> str:
        return self._real.fingerprint

    @fingerprint.setter
    def fingerprint(self, value: str) -> None:
        self._real.fingerprint = value


class _ObservedTransaction:
    """Keeps what is appended until the commit. A `Transaction`."""

    def __init__(self, real: Transaction) -> None:
        self._real = real
        self.batches: list[Batch] = []

    async def fetch(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Sequence[Row]:
        return await self._real.fetch(sql, parameters)

    async def fetch_one(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Row | None:
        return await self._real.fetch_one(sql, parameters)

    async def look_up(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> Sequence[Row]:
        return await self._real.look_up(sql, parameters)

    async def execute(self, sql: str, parameters: Mapping[str, Value] = NO_PARAMETERS) -> int:
        return await self._real.execute(sql, parameters)

    async def execute_many(self, sql: str, parameters: Sequence[Mapping[str, Value]]) -> None:
        await self._real.execute_many(sql, parameters)

    async def perform(self, program: Program[T]) -> T:
        return await self._real.perform(program)

    async def append_events(self, batch: Batch) -> None:
        await self._real.append_events(batch)
        self.batches.append(batch)


class ObservedOutbound(Outbound):
    """Times each request to a provider. Its URL stays out of the trace: paths and queries name people's things."""

    meters: Meters | None = None  # set once the providers are known

    async def send(self, request: OutboundRequest) -> OutboundResponse:
        """As `Outbound.send`."""
        if self.meters is None:
            return await super().send(request)
        if self.meters.is_recorded():
            with self.meters.span("upstream", _attributes(request)) as current:
                answer = await super().send(request)
                current.note(http_status=answer.status, status=class_of(answer.status))
            return answer
        began = time.perf_counter()
        try:
            answer = await Outbound.send(self, request)  # `super()` would make an object for each request
        except BaseException as error:
            failed = {**_attributes(request), "error": code_of(error)}
            self.meters.end("upstream", time.perf_counter() - began, failed)
            raise
        self.meters.end_upstream(request.peer, answer.status, began)
        return answer

    @asynccontextmanager
    async def open(self, request: OutboundRequest) -> AsyncGenerator[StreamedAnswer]:
        """As `Outbound.open`; timed until the whole answer is passed on."""
        if self.meters is None:
            async with super().open(request) as answer:
                yield answer
            return
        with self.meters.span("upstream", _attributes(request)) as current:
            async with super().open(request) as answer:
                current.note(http_status=answer.status, status=class_of(answer.status))
                yield answer


def _attributes(request: OutboundRequest) -> dict[str, Attribute]:
    provider, operation = names_of(request.peer)
    return {"provider": provider, "operation": operation, "method": request.method}
