"""A provider set up in the browser of one `serve` process is used by another one: two real processes, one database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from server.live_providers import LOOK_EVERY
from tests.conftest import Store
from tests.support.harness import PASSWORD
from tests.support.person import Person, forms_of
from tests.support.processes import Place, free_port
from tests.support.rooms.portal_room import query_of
from vault import users
from vault.keys import passwords

GITHUB = "/administration/providers/github"
CONNECT = "/connections/connect?provider=github"
FIRST_ID, SECOND_ID = "Iv1.0123456789abcdef", "Iv1.fedcba9876543210"
SECRET = "0123456789abcdef0123456789abcdef01234567"
STATED = 10.0  # seconds; a process looks every LOOK_EVERY


@dataclass
class Process(Place):
    """One of several processes of a vault, at its own address."""

    database: str = ""

    def environment(self) -> dict[str, str]:
        own = {"TOKEN_VAULT_SERVER__PORT": str(self.port), "TOKEN_VAULT_DATABASE__URL": self.database}
        return super().environment() | own


@asynccontextmanager
async def _two_processes(store: Store) -> AsyncGenerator[tuple[Person, Person]]:
    """An admin's browser at each of two processes."""
    database = await store.open()
    hashed = await passwords.hash_password(PASSWORD)
    async with database.transaction() as transaction:
        await users.create_user(transaction, "alice", password_hash=hashed, is_admin=True, now=database.now())
    await database.close()
    async with AsyncExitStack() as stack:
        browsers: list[Person] = []
        for process in (Process(store.data, free_port(), store.url), Process(store.data, free_port(), store.url)):
            await stack.enter_async_context(process.serve())
            browser = await stack.enter_async_context(Person(process.url))
            assert (await browser.sign_in("alice", PASSWORD)).status_code == 200
            browsers.append(browser)
        yield browsers[0], browsers[1]


async def _set_up(browser: Person, client_id: str) -> None:
    page = await browser.open(GITHUB)
    (form,) = [number for number, one in enumerate(forms_of(page.text)) if one.action == GITHUB]
    page = await browser.submit(page, {"client_id": client_id, "client_secret": SECRET}, form=form)
    assert "GitHub is set up." in page.text


async def _consent_with(browser: Person, client_id: str) -> None:
    """Wait until connecting an account leads to the provider with this client ID or, if it is empty, is refused."""
    async with asyncio.timeout(3 * STATED):  # a busy machine answers late
        while await _client_id_at_consent(browser) != client_id:
            await asyncio.sleep(0.1)


async def _client_id_at_consent(browser: Person) -> str:
    page = await browser.open(CONNECT)
    if "set up GitHub" in page.text or page.status_code != 200:
        return ""
    (form,) = [one for one in forms_of(page.text) if one.action == "/connections/connect"]
    scopes = [*form.choices.get("scope", []), *(value for name, value in form.fields if name == "scope")]
    gone = await browser.submit(page, {"scope": scopes[0]}, form="/connections/connect")
    there = gone.headers.get("location", "")
    return query_of(there)["client_id"] if urlsplit(there).hostname == "github.com" else ""


async def test_what_one_process_is_told_another_does_within_seconds(store: Store) -> None:
    assert LOOK_EVERY < STATED / 2
    async with _two_processes(store) as (here, there):
        assert await _client_id_at_consent(there) == ""
        await _set_up(here, FIRST_ID)
        assert await _client_id_at_consent(here) == FIRST_ID, "at once where it was entered"
        await _consent_with(there, FIRST_ID)
        await _set_up(there, SECOND_ID)
        await _consent_with(here, SECOND_ID)
        await here.submit(await here.open(f"{GITHUB}/remove"), form="/remove")
        await _consent_with(there, "")
