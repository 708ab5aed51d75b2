"""From a signal to the refused call, with two instances of one vault on PostgreSQL: within seconds at each of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx2
import pytest

from tests.conftest import Store
from tests.support.doubles.transmitter_double import CAEP, RISC, Transmitter, running_transmitter
from tests.support.harness import PASSWORD, RunningVault, Tokens, running_vault
from tests.support.inspection import read_events
from tests.support.rooms.two_processes import open_doors
from vault import users

LIMIT = 5.0  # seconds; the exact time is measured elsewhere


@dataclass
class Two:
    """One vault, served by two instances, and its transmitter."""

    vault: RunningVault
    doors: tuple[httpx2.AsyncClient, httpx2.AsyncClient]
    transmitter: Transmitter

    async def push(self, door: int, kind: str, subject: object) -> None:
        """Send an event to one of the instances."""
        claims = self.transmitter.claims(f"{self.vault.url}/signals/company", kind, subject)
        headers = {"content-type": "application/secevent+jwt"}
        sent = await self.doors[door].post("/signals/company", content=self.transmitter.sign(claims), headers=headers)
        assert sent.status_code == 202, sent.text

    async def statuses(self, tokens: Tokens) -> list[int]:
        headers = {"authorization": f"Bearer {tokens.access_token}"}
        return [(await door.get("/userinfo", headers=headers)).status_code for door in self.doors]


@pytest.fixture
async def two(postgres_store: Store) -> AsyncGenerator[Two]:
    async with AsyncExitStack() as stack:
        transmitter = await stack.enter_async_context(running_transmitter(lambda: int(time.time())))
        overrides = {
            "signals": {"transmitters": {"company": {"issuer": transmitter.url}}},
            "sandbox": {"loopback_openid": True},
        }
        vault = await stack.enter_async_context(
            running_vault(postgres_store.data, database_url=postgres_store.url, overrides=overrides)
        )
        transmitter.now = vault.deployment.now
        doors = await open_doors(stack, vault, postgres_store.data)
        yield Two(vault, doors, transmitter)


@pytest.mark.parametrize("door", [0, 1])
async def test_a_signal_at_one_process_is_known_to_every_process_at_once(two: Two, door: int) -> None:
    deployment = two.vault.deployment
    user = await two.vault.add_user("carol")
    async with deployment.transaction() as transaction:
        await users.link_identity(
            transaction, issuer=two.transmitter.url, subject="carol-there", user_id=user.id, now=deployment.now()
        )
    async with two.vault.person() as browser:
        await browser.sign_in("carol", PASSWORD)
        tokens = await two.vault.agent(browser, name="carol", scope="tools openid")
    assert await two.statuses(tokens) == [200, 200]  # now each has the token's signature in its cache
    subject = {"format": "iss_sub", "iss": two.transmitter.url, "sub": "carol-there"}
    await two.push(door, f"{CAEP}token-claims-change", subject)  # this fetches the transmitter's keys
    started = time.monotonic()
    await two.push(door, f"{RISC}account-disabled", subject)
    assert await two.statuses(tokens) == [401, 401]
    assert time.monotonic() - started < LIMIT


async def test_an_event_that_reaches_both_processes_at_once_counts_once(two: Two) -> None:
    deployment = two.vault.deployment
    user = await two.vault.add_user("dave")
    async with deployment.transaction() as transaction:
        await users.link_identity(
            transaction, issuer=two.transmitter.url, subject="dave-there", user_id=user.id, now=deployment.now()
        )
    subject = {"format": "iss_sub", "iss": two.transmitter.url, "sub": "dave-there"}
    claims = two.transmitter.claims(f"{two.vault.url}/signals/company", f"{RISC}account-disabled", subject)
    token, headers = two.transmitter.sign(claims), {"content-type": "application/secevent+jwt"}
    answers = await asyncio.gather(
        *(door.post("/signals/company", content=token, headers=headers) for door in two.doors for _ in range(3))
    )
    assert {one.status_code for one in answers} == {202}
    events = await read_events(deployment, user_id=user.id, limit=100)
    assert [one.kind for one in events].count("signal.stopped") == 1
