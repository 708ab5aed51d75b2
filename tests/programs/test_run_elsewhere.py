"""`token-vault run --url`: programs here, accounts at a vault elsewhere, and no credential on the way back."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from server.bridge.access import Access
from server.bridge.address import remote_vault
from server.bridge.authority import AuthorizationServer, plain_client
from server.bridge.credentials import Credentials, FileStore
from server.bridge.refusals import BridgeRefused
from server.bridge.sign_in import SignInFlow, Way
from server.programs.holding import text_of
from server.programs.remote_running import run_for
from server.programs.running import ProgramOptions
from tests.support.harness import PASSWORD, Tokens
from tests.support.person import Person
from tests.support.rooms.program_room import READ, TOKEN, WRITE, ProgramRoom, Ran, program_room
from vault import users

USER = "https://api.github.com/user"


@dataclass
class Elsewhere:
    """A vault that listens, and an agent on another machine that is signed in there."""

    room: ProgramRoom
    tokens: Tokens
    folder: Path
    said: list[str] = field(default_factory=list[str])

    @asynccontextmanager
    async def access(self) -> AsyncGenerator[Access]:
        vault = remote_vault(self.room.vault.url, agent="laptop")
        store = FileStore(self.folder / "remote" / f"{vault.name}.json", why="a test")
        if store.load() is None:
            store.save(Credentials(self.tokens.client_id, refresh_token=self.tokens.refresh_token or ""))
        async with plain_client(vault) as http:
            authority = AuthorizationServer(http, vault)
            access = Access(authority, store, vault=vault, data=self.folder, say=self.said.append)
            way = Way(None, lambda _: None, may_open=False)
            async with access.open(SignInFlow(authority, vault, way, tell=access.tell)):
                yield access

    async def run(self, *command: str, accounts: tuple[str, ...] = (), wait: float = 0.0) -> Ran:
        out = self.folder / "out"
        out.unlink(missing_ok=True)
        options = ProgramOptions(
            ["sh", "-c", 'out=$1; shift; exec "$@" >"$out" 2>&1', "sh", str(out), *command],
            "laptop",
            accounts,
            {**os.environ, "HOME": str(self.folder), "TOKEN_VAULT_X": "ours"},
            say=self.said.append,
            wait=wait,
        )
        vault = remote_vault(self.room.vault.url, agent="laptop")
        async with self.access() as access:
            record = await run_for(vault, access, options, own={"TOKEN_VAULT_X"}, proxy=None, open_browser=None)
        return Ran(record, out.read_text())


@pytest_asyncio.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Elsewhere]:
    if shutil.which("curl") is None:
        pytest.skip("curl isn't installed")
    async with program_room(tmp_path_factory.mktemp("vault")) as room, Person(room.vault.url) as person:
        await person.sign_in("alice", PASSWORD)
        tokens = await room.vault.agent(person)
        alice = await users.find_user(room.vault.deployment.database, "alice")
        assert alice is not None and room.principal.user_id == alice.id
        room.principal = replace(room.principal, client_id=tokens.client_id)
        yield Elsewhere(room, tokens, tmp_path_factory.mktemp("laptop"))


@pytest_asyncio.fixture
async def there(shared: Elsewhere) -> AsyncGenerator[Elsewhere]:
    await shared.room.allow(READ)
    shared.said.clear()
    shared.room.host.arrivals.clear()
    yield shared


async def test_a_program_reads_and_no_credential_reaches_this_machine(there: Elsewhere) -> None:
    ran = await there.run("sh", "-c", f"curl -sS --max-time 60 {USER}; echo; env")
    assert ran.code == 0, ran.output
    assert json.loads(ran.output.splitlines()[0])["login"] == "alice"
    assert there.room.host.arrivals == [("GET", "/rest/user", f"Bearer {TOKEN}")]
    assert TOKEN not in ran.output
    assert "tvp_" not in ran.output
    assert there.tokens.access_token not in ran.output
    assert "TOKEN_VAULT_X" not in ran.output
    assert dict(ran.record.calls) == {("github", "passed"): 1}
    (event, *_) = await there.room.events("proxy.called")
    assert event.details["provider"] == "github"


async def test_links_in_answers_lead_where_the_program_called(there: Elsewhere) -> None:
    ran = await there.run("curl", "-sS", "-D", "-", "--max-time", "60", f"{USER}/repos")
    assert ran.code == 0, ran.output
    assert "<https://api.github.com/user/repos?page=2>" in ran.output
    assert "/proxy/" not in ran.output


async def test_git_clones_and_pushes_with_bodies_that_stream(there: Elsewhere) -> None:
    copy = there.folder / "copy"
    assert (await there.run("git", "clone", "-q", "https://github.com/octo/hello.git", str(copy))).code == 0
    (copy / "large").write_bytes(os.urandom(3_000_000))
    mine = ["-c", "user.name=a", "-c", "user.email=a@example"]
    changed = f"cd {copy} && git add large && git {' '.join(mine)} commit -qm large && git push -q origin HEAD:laptop"
    refused = await there.run("sh", "-c", changed)
    assert (refused.code != 0, "403" in refused.output) == (True, True), refused.output
    await there.room.allow(READ | WRITE)
    pushed = await there.run("git", "-C", str(copy), "push", "-q", "origin", "HEAD:laptop")
    assert pushed.code == 0, pushed.output


async def test_a_call_beyond_the_permission_says_the_link_and_waits_for_it(there: Elsewhere) -> None:
    await there.room.allow(frozenset({"metadata:read"}))
    repository = "https://api.github.com/repos/octo/hello/contents/README"
    refused = await there.run("curl", "-sS", "--max-time", "60", repository)
    assert "isn't allowed to use" in json.loads(refused.output)["message"], refused.output
    assert dict(refused.record.calls) == {("github", "refused"): 1}
    assert there.said == []

    waiting = there.run("curl", "-sS", "--max-time", "120", repository, wait=90)
    task = asyncio.create_task(waiting)
    async with asyncio.timeout(60):
        while not there.said:
            await asyncio.sleep(0.1)
    assert "/connect/" in there.said[0]
    await there.room.allow(READ)
    ran = await task
    assert json.loads(ran.output) == {"message": "Not Found"}, "GitHub's own answer"
    assert len(there.said) == 1


async def test_what_cannot_run_is_said_before_it_starts(there: Elsewhere) -> None:
    with pytest.raises(BridgeRefused, match='no connected account is called "nobody"'):
        await there.run("true", accounts=("nobody",))
    assert (await there.run("true", accounts=("alice",))).code == 0  # the twin


async def test_the_endpoints_want_a_token_for_tools_and_forms_that_they_know(there: Elsewhere) -> None:
    address = f"{there.room.vault.url}/programs/calls"
    call = {"method": "GET", "host": "api.github.com", "port": 443, "path": "/user", "accounts": []}
    token = {"authorization": f"Bearer {await _fresh(there)}"}
    async with httpx2.AsyncClient(timeout=30) as http:
        for headers in ({}, {"authorization": "Bearer nothing"}):
            refused = await http.post(address, json=call, headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"][:6]) == (401, "Bearer")
        for wrong in ({**call, "port": 0}, {**call, "more": 1}, {"path": "x" * 70_000}):
            assert (await http.post(address, json=wrong, headers=token)).status_code == 400
        nothing = await http.post(address, json={**call, "host": "other.example"}, headers=token)
        assert (nothing.status_code, nothing.json()["code"]) == (403, "call_not_allowed")
        right = await http.post(address, json=call, headers=token)
        assert (right.status_code, right.json()["handle"][:4]) == (200, "tvp_")
        again = await http.post(address, json=call, headers=token)
        assert again.json()["handle"] == right.json()["handle"]
        settings = there.room.vault.deployment.settings
        only = settings.exchange.model_copy(update={"confidential_only": True})
        before = settings.exchange
        object.__setattr__(settings, "exchange", only)
        try:
            refused = await http.post(address, json=call, headers=token)
        finally:
            object.__setattr__(settings, "exchange", before)
        assert (refused.status_code, refused.json()["code"]) == (403, "unauthorized_client")


async def _fresh(there: Elsewhere) -> str:
    async with there.access() as access:
        return await access.token()


def test_the_environment_is_printed_for_a_shell_and_as_json() -> None:
    before = {"KEPT": "1", "GONE": "2", "OLD": "3", "BASH_FUNC_x%%": "4"}
    after = {"KEPT": "1", "OLD": "it's", "NEW": "a b"}
    assert text_of(before, after, as_json=False) == "export OLD='it'\"'\"'s'\nexport NEW='a b'\nunset GONE\n"
    told = json.loads(text_of(before, after, as_json=True))
    assert told == {"environment": {"OLD": "it's", "NEW": "a b"}, "removed": ["BASH_FUNC_x%%", "GONE"]}
