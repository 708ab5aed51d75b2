"""No secret leaves the vault, whatever fails: an error at each await of an exchange, a refresh, a connection."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import make_dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest

from providers.simulator.person import consent
from tests.conftest import Store
from tests.leaks.canaries import Canaries
from tests.leaks.injector import Injector
from tests.leaks.purposes import may_be_told
from tests.leaks.watch import Watch
from tests.support.harness import PASSWORD
from tests.support.person import Person
from tests.support.rooms.exchange_room import Caller, ExchangeRoom, exchange_room
from tests.support.rooms.key_room import running_key_room
from tests.support.rooms.mcp_room import SLACK, Agent, modern, modern_headers
from tests.support.rooms.mcp_room import room as mcp_room
from tests.support.rooms.portal_room import running_room, someone
from vault import delegations, spans
from vault.refusals import ConnectionRequired

SECRET = "xoxe.xoxp-1-0123456789abcdefghijklmnopqrstuvwxyz"
ODD = "a password with blanks & more"
HALF_A_DAY = 43_200
MOST = 150  # awaits of one request
WRITTEN = {
    "as it is": SECRET,
    "its first half": SECRET[:30],
    "its second half": SECRET[20:],
    "hex": SECRET.encode().hex(),
    "HEX": SECRET.encode().hex().upper(),
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "base64 after one letter": base64.b64encode(b"x" + SECRET.encode() + b"y").decode(),
    "base64 after two letters": base64.urlsafe_b64encode(b"xx" + SECRET.encode()).decode(),
    "in a JSON text": f'{{"access_token":"{SECRET}"}}',
    "in a URL": f"https://api.example/?token={SECRET}&x=1",
    "odd, as it is": f"<{ODD}>",
    "odd, URL-encoded": quote(ODD),
    "odd, in base64": base64.b64encode(b"z" + ODD.encode()).decode(),
}


@pytest.mark.requirement("V-08")
@pytest.mark.parametrize("written", list(WRITTEN.values()), ids=list(WRITTEN))
def test_a_secret_is_found_however_it_is_written(written: str) -> None:
    canaries = Canaries()
    assert not canaries.find(f"before {written} after", "a log")
    canaries.add("a token", SECRET)
    canaries.add("a password", ODD)
    (sighting,) = canaries.find(f"before {written} after", "a log")
    assert sighting.place == "a log"
    assert SECRET not in str(sighting)


@pytest.mark.parametrize(
    ("path", "is_fit"), [("/connect/a-link", True), ("/connections/connect", True), ("/agents", False)]
)
def test_a_state_is_told_only_by_what_sends_a_browser_to_its_provider(path: str, *, is_fit: bool) -> None:
    kind = "server/connecting/provider_authorization.py 32"
    assert may_be_told(kind, "body", path) is is_fit
    assert not may_be_told(kind, "set-cookie", path)


@pytest.mark.parametrize("what", ["log", "traceback", "span", "refusal", "repr", "answer", "file"])
async def test_the_watch_sees_each_way_out(tmp_path: Path, what: str) -> None:
    watch, secret = Watch(), "planted-" + SECRET
    with watch.install(), watch.watch_logs():
        await let_out(watch, what, "nothing", tmp_path)
        assert not watch.look([tmp_path])
        watch.canaries.add("planted", secret)
        await let_out(watch, what, secret, tmp_path)
        assert {one.kind for one in watch.look([tmp_path])} == {"planted"}


async def let_out(watch: Watch, what: str, text: str, folder: Path) -> None:
    match what:
        case "log":
            logging.getLogger("token_vault.leaky").debug("said", extra={"token": text})
        case "traceback":
            try:
                raise ValueError(text)
            except ValueError as error:
                logging.getLogger("token_vault.leaky").debug("failed", exc_info=error)
        case "span":
            with spans.span("leaky") as span:
                span.note(token=text)
        case "refusal":
            ConnectionRequired("no", provider="slack", reason="missing", scopes=frozenset(), detail=text)
        case "repr":
            kind = make_dataclass("Leaky", ["token"])
            watch._watch_repr(kind)
            kind(text)
        case "answer":
            watch.note_answer("/leaky", "body", text.encode())
        case _:
            (folder / "vault.sqlite-wal").write_text(text)


# An error at each await

Act = Callable[[], Awaitable[httpx2.Response]]
Prepare = Callable[[], Awaitable[Act]]
ERRORS: dict[str, Callable[[], BaseException]] = {
    "defect": lambda: RuntimeError("injected"),
    "socket": lambda: OSError(104, "injected"),
    "time-out": lambda: TimeoutError("injected"),
    "cancelled": lambda: asyncio.CancelledError("injected"),
}


def open_exchange_room(store: Store, **overrides: object) -> AbstractAsyncContextManager[ExchangeRoom]:
    return exchange_room(store.data, database_url=None if store.is_sqlite else store.url, **overrides)


async def agent_of(room: ExchangeRoom, *, is_old: bool) -> tuple[Caller, Agent]:
    """A client that may get tokens, and an agent; with `is_old`, the upstream token must be refreshed first."""
    caller = await room.caller(release={"default": "full"})
    first = await room.agent(caller)
    await room.slack(first)
    if is_old:
        room.deployment.database.clock_offset += HALF_A_DAY
        room.room.simulator.advance(HALF_A_DAY)
    return caller, await room.agent(caller)


@asynccontextmanager
async def exchange(store: Store, *, is_old: bool = False) -> AsyncGenerator[Prepare]:
    async with open_exchange_room(store) as room:

        async def prepare() -> Act:
            caller, agent = await agent_of(room, is_old=is_old)
            return lambda: room.exchange(caller, agent.token)

        yield prepare


@asynccontextmanager
async def tool_call(store: Store) -> AsyncGenerator[Prepare]:
    async with open_exchange_room(store) as room:
        body = modern("tools/call", {"name": "slack_post", "arguments": {"channel": "#general", "text": "hello"}})

        async def prepare() -> Act:
            _, agent = await agent_of(room, is_old=False)
            headers = agent.headers | modern_headers("tools/call", "slack_post")
            return lambda: room.http.post("/mcp", json=body, headers=headers)

        yield prepare


@asynccontextmanager
async def connection(store: Store) -> AsyncGenerator[Prepare]:
    database = None if store.is_sqlite else {"database": {"url": store.url}}
    async with running_room(store.data, overrides=database) as room:

        async def prepare() -> Act:
            user, person, client = await someone(room)
            callback = await consent(await room.to_provider(person, await room.link(user, client)))
            return lambda: person.http.get(callback)

        yield prepare


@asynccontextmanager
async def key_entry(store: Store) -> AsyncGenerator[Prepare]:
    """A person enters a key, which is tested at the service, sealed, and stored."""
    async with running_key_room(store.data, database_url=None if store.is_sqlite else store.url) as room:

        async def prepare() -> Act:
            user = await room.user()
            person, key = await room.signed_in(user), room.simulator.sandbox.keys.make(user.name)
            page = await room.form(person)
            return lambda: room.enter(person, page, key=key)

        yield prepare


@asynccontextmanager
async def approval(store: Store) -> AsyncGenerator[Prepare]:
    """A person approves a call that waits for approval."""
    async with (
        mcp_room(store.data, database_url=None if store.is_sqlite else store.url) as place,
        Person(place.url) as person,
    ):
        await person.sign_in("alice", PASSWORD)

        async def prepare() -> Act:
            agent = await place.agent()
            connection = await place.connect(agent, "slack", scopes=SLACK)
            async with place.vault.deployment.transaction() as transaction:
                which = {"user_id": agent.principal.user_id, "client_id": agent.principal.client_id}
                now, ask = place.vault.deployment.now(), frozenset({"tool:slack_post"})
                await delegations.set_ask(transaction, **which, connection_id=connection.id, ask=ask, now=now)
            async with place.client(agent) as client:
                asked = await client.call_tool("slack_post", {"channel": "#general", "text": "hello"})
            assert asked.meta is not None
            page = await person.open(str(asked.meta["io.github.mcp-token-vault/connect"]["url"]))
            return lambda: person.submit(page, form="/approvals/", button=("decision", "allow"))

        yield prepare


@asynccontextmanager
async def registration(store: Store) -> AsyncGenerator[Prepare]:
    """An agent registers itself and gets a secret."""
    limits = {"per_address_hourly": 10_000, "total_hourly": 10_000}
    async with open_exchange_room(store, registration=limits) as room:
        content = {"redirect_uris": ["https://agent.example/callback"], "client_name": "Agent"}

        async def prepare() -> Act:
            return lambda: room.http.post("/register", json=content)

        yield prepare


FLOWS: dict[str, Callable[[Store], AbstractAsyncContextManager[Prepare]]] = {
    "exchange": exchange,
    "refresh": partial(exchange, is_old=True),
    "tool call": tool_call,
    "connection": connection,
    "key entry": key_entry,
    "approval": approval,
    "registration": registration,
}


async def fail_everywhere(
    prepare: Prepare, injector: Injector, error: Callable[[], BaseException], *, step: int
) -> list[str]:
    """Raise at every `step`-th await until a request has none left; return where it was raised."""
    raised: list[str] = []
    for at in range(1, MOST, step):
        act = await prepare()
        plan = injector.next_request(at, error)
        with suppress(httpx2.HTTPError):  # an answer that was cut off
            async with asyncio.timeout(60):
                await act()
        if not plan.where:
            plan.at = 0  # a task that continues may still wait
            return raised
        raised.append(plan.where)
    raise AssertionError("there are more awaits than expected")


async def check_silence(store: Store, flow: str, error: str, *, step: int) -> None:
    """Check that nothing leaks wherever it fails, and that the same request succeeds without failures."""
    watch = Watch()
    with watch.install(), watch.watch_logs(), Injector().install() as injector:
        async with FLOWS[flow](store) as prepare:
            watch.watch_reprs()
            raised = await fail_everywhere(prepare, injector, ERRORS[error], step=step)
            assert len(raised) >= 2, raised
            assert (await (await prepare())()).status_code < 400
            assert not watch.look([store.data])
    assert len(watch.canaries) > 10
    assert all(watch.looked_at[place] for place in ("log", "repr", "answer"))
    assert watch.looked_at["file"] > 0 or not store.is_sqlite  # the server's own files aren't searched


STEPS = {
    "exchange": 1,
    "refresh": 1,
    "tool call": 3,
    "connection": 8,
    "key entry": 20,
    "approval": 8,
    "registration": 2,
}


@pytest.mark.requirement("V-07", "V-08")
@pytest.mark.parametrize(("flow", "step"), STEPS.items())
async def test_nothing_leaks_wherever_a_request_fails(sqlite_store: Store, flow: str, step: int) -> None:
    await check_silence(sqlite_store, flow, "defect", step=step)


@pytest.mark.long
@pytest.mark.parametrize("error", list(ERRORS))
@pytest.mark.parametrize("flow", list(FLOWS))
async def test_nothing_leaks_whatever_fails_at_each_await(store: Store, flow: str, error: str) -> None:
    await check_silence(store, flow, error, step=1)
