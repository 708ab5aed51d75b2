"""`token-vault run --url`: programs here, accounts in a remote vault, and no credential on the way back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import shutil
from base64 import urlsafe_b64encode
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic, time
from types import MappingProxyType

import httpx2
import pytest
import pytest_asyncio
from joserfc.jwk import ECKey

from server.administration import agents
from server.administration.actor import Actor
from server.bridge.access import Access
from server.bridge.address import remote_vault
from server.bridge.authority import AuthorizationServer, plain_client
from server.bridge.credentials import Credentials, FileStore
from server.bridge.refusals import BridgeRefused
from server.bridge.sign_in import SignInFlow, Way
from server.oauth.rules import TOKEN_EXCHANGE
from server.programs.printed_environment import text_of
from server.programs.program_run import ProgramOptions
from server.programs.remote_run import run_for
from server.proxy.remote_programs import CALLS, HOSTS
from server.runtime.rate_limits import agent_place, host_place
from tests.conftest import unavailable
from tests.support.bridge_processes import Machine, in_the_browser
from tests.support.harness import PASSWORD, RunningVault, Tokens
from tests.support.inspection import read_events
from tests.support.person import Person
from tests.support.processes import PROGRAM
from tests.support.rooms.oauth_world import sign_jwt
from tests.support.rooms.program_room import READ, TOKEN, WRITE, ProgramRoom, Ran, program_room
from vault import clients, users
from vault.records import Event

USER = "https://api.github.com/user"
RUNS = ("authorization_code", "refresh_token", TOKEN_EXCHANGE)
SCOPE = "tools connections offline_access exchange"
CALL: dict[str, object] = {"method": "GET", "host": "api.github.com", "port": 443, "path": "/user"}


@dataclass
class Elsewhere:
    """A vault that listens, and an agent on another machine that is signed in there."""

    room: ProgramRoom
    person: Person
    tokens: Tokens
    folder: Path
    said: list[str] = field(default_factory=list[str])

    @asynccontextmanager
    async def access(self) -> AsyncGenerator[Access]:
        vault = remote_vault(self.room.vault.url, agent="laptop", is_for_programs=True)
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
        vault = remote_vault(self.room.vault.url, agent="laptop", is_for_programs=True)
        async with self.access() as access:
            record = await run_for(vault, access, options, own={"TOKEN_VAULT_X"}, proxy=None, open_browser=None)
        return Ran(record, out.read_text())


@pytest_asyncio.fixture(scope="module")
async def shared_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Elsewhere]:
    if shutil.which("curl") is None:
        unavailable("curl isn't installed")
    async with program_room(tmp_path_factory.mktemp("vault")) as room, Person(room.vault.url) as person:
        await person.sign_in("alice", PASSWORD)
        tokens = await sign_agent_in(room.vault, person)
        alice = await users.find_user(room.vault.deployment.database, "alice")
        assert alice is not None and room.principal.user_id == alice.id
        room.principal = replace(room.principal, client_id=tokens.client_id)
        yield Elsewhere(room, person, tokens, tmp_path_factory.mktemp("laptop"))


async def sign_agent_in(
    vault: RunningVault, person: Person, *, grant_types: Sequence[str] = RUNS, scope: str = SCOPE, **proof: str
) -> Tokens:
    """What an agent has after it signed in for `run --url`."""
    client_id = str((await vault.register(grant_types=list(grant_types)))["client_id"])
    answer, verifier = await vault.authorize(person, client_id, scope=scope)
    form = {
        "grant_type": "authorization_code",
        "client_id": client_id,
        "code": answer["code"],
        "code_verifier": verifier,
        "redirect_uri": "http://127.0.0.1:33418/callback",
    }
    async with httpx2.AsyncClient(timeout=30) as http:
        redeemed = await http.post(f"{vault.url}/token", data=form, headers=proof)
    assert redeemed.status_code == 200, redeemed.text
    tokens = redeemed.json()
    return Tokens(client_id, tokens["access_token"], tokens.get("refresh_token"), tokens["scope"])


@pytest_asyncio.fixture
async def there(shared_elsewhere: Elsewhere) -> AsyncGenerator[Elsewhere]:
    await shared_elsewhere.room.allow(READ)
    shared_elsewhere.said.clear()
    shared_elsewhere.room.host.arrivals.clear()
    yield shared_elsewhere


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


async def test_other_hosts_are_refused_and_recorded_at_the_vault(there: Elsewhere) -> None:
    ran = await there.run("curl", "-sS", "--max-time", "60", "https://elsewhere.example/", USER)
    assert dict(ran.record.hosts) == {("elsewhere.example", "refused"): 1}
    async with asyncio.timeout(30):
        while not (told := await there.room.events("program.called")):
            await asyncio.sleep(0.05)
    (event,) = [one for one in told if one.details["host"] == "elsewhere.example"]
    assert (event.outcome, event.details["code"], event.details["port"]) == ("refused", "host_refused", 443)
    assert event.client_id == there.tokens.client_id
    assert not [one for one in told if one.details["host"] == "api.github.com"]


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


async def test_the_endpoints_want_a_token_and_forms_that_they_know(there: Elsewhere) -> None:
    token = await _fresh(there)
    for headers in ("", "Bearer nothing"):
        refused = await ask(there, headers)
        assert (refused.status_code, refused.headers["www-authenticate"][:6]) == (401, "Bearer")
    wrongs: tuple[dict[str, object], ...] = (
        {"port": 0},
        {"more": 1},
        {"path": "x" * 70_000},
        {"query": "\u20ac"},
        {"accounts": ["x"] * 21},
        {"accounts": ["x" * 201]},
    )
    for wrong in wrongs:
        assert (await ask(there, f"Bearer {token}", changes=wrong)).status_code == 400, wrong
    for known, status in (({"accounts": ["alice"]}, 200), ({"more": 1}, 400)):
        assert (await ask(there, f"Bearer {token}", at=HOSTS, changes=known)).status_code == status
    async with httpx2.AsyncClient(timeout=30) as http:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        for length, status in ((65_536, 200), (65_537, 400)):
            content = json.dumps(CALL).encode().ljust(length)
            sent = await http.post(f"{there.room.vault.url}{CALLS}", content=content, headers=headers)
            assert sent.status_code == status, sent.text
    nothing = await ask(there, f"Bearer {token}", changes={"host": "other.example"})
    assert (nothing.status_code, nothing.json()["code"]) == (403, "call_not_allowed")
    unknown = await ask(there, f"Bearer {token}", changes={"accounts": ["nobody"]})
    assert (unknown.status_code, unknown.json()["code"]) == (403, "account_required")
    right = await ask(there, f"Bearer {token}", changes={"query": "a=\xe4", "accounts": ["alice"]})  # the twin of all
    assert (right.status_code, right.json()["handle"][:4]) == (200, "tvp_")
    again = await ask(there, f"Bearer {token}", changes={"accounts": ["alice"]})
    assert again.json()["handle"] == right.json()["handle"]


@pytest.mark.parametrize(
    ("grant_types", "scope", "code"),
    [
        (RUNS[:2], SCOPE, "unauthorized_client"),
        (RUNS, "tools connections offline_access", "insufficient_scope"),
        (RUNS, SCOPE, ""),
    ],
    ids=["without the grant", "without the scope", "with both"],
)
async def test_a_handle_needs_what_an_exchange_needs(
    there: Elsewhere, grant_types: Sequence[str], scope: str, code: str
) -> None:
    tokens = await sign_agent_in(there.room.vault, there.person, grant_types=grant_types, scope=scope)
    await allow(there, tokens.client_id, READ)
    for at in (HOSTS, CALLS):
        answer = await ask(there, f"Bearer {tokens.access_token}", at=at)
        if code:
            assert (answer.status_code, answer.json()["code"]) == (403, code)
            assert "handle" not in answer.json()
        else:
            assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("name", "section", "code", "text"),
    [
        ("exchange", {"confidential_only": True}, "unauthorized_client", "Public clients can't exchange"),
        ("tokens", {"require_dpop": True}, "unauthorized_client", "tokens.require_dpop"),
    ],
)
async def test_what_the_operator_requires_is_said(
    there: Elsewhere, name: str, section: dict[str, object], code: str, text: str
) -> None:
    token, settings = await _fresh(there), there.room.vault.deployment.settings
    before = getattr(settings, name)
    object.__setattr__(settings, name, before.model_copy(update=section))
    try:
        refused = await ask(there, f"Bearer {token}")
    finally:
        object.__setattr__(settings, name, before)
    assert (refused.status_code, refused.json()["code"]) == (403, code)
    assert text in refused.json()["text"]
    assert (await ask(there, f"Bearer {token}")).status_code == 200  # the twin


async def test_a_handle_ends_with_its_own_token_and_no_other(there: Elsewhere) -> None:
    tokens = await sign_agent_in(there.room.vault, there.person)
    await allow(there, tokens.client_id, READ)
    async with httpx2.AsyncClient(timeout=30, base_url=there.room.vault.url) as http:
        form = {"client_id": tokens.client_id}
        renewed = {"grant_type": "refresh_token", "refresh_token": tokens.refresh_token or "", **form}
        later = (await http.post("/token", data=renewed)).json()["access_token"]
        first = (await ask(there, f"Bearer {tokens.access_token}")).json()
        second = (await ask(there, f"Bearer {later}")).json()
        assert first["handle"] != second["handle"]
        await http.post("/revoke", data={**form, "token": tokens.access_token})
        assert (await ask(there, f"Bearer {tokens.access_token}")).status_code == 401
        place = f"/proxy/{first['connection_id']}/{first['api']}/user"
        statuses = [
            (await http.get(place, headers={"authorization": f"Bearer {one['handle']}"})).status_code
            for one in (first, second)
        ]
        assert statuses == [401, 200]


async def test_an_agent_that_may_have_whole_tokens_gets_a_handle_here(there: Elsewhere) -> None:
    deployment = there.room.vault.deployment
    tokens = await sign_agent_in(there.room.vault, there.person)
    await allow(there, tokens.client_id, READ)
    async with deployment.transaction() as transaction:
        await transaction.execute(
            "update clients set kind = 'manual', auth_method = 'client_secret_post' where id = :id",
            {"id": tokens.client_id},
        )
    client = await clients.get_client(deployment.database, tokens.client_id)
    assert client is not None
    await agents.set_release(Actor(deployment, None, "command_line"), client, target="github", policy="full")
    assert (await ask(there, f"Bearer {tokens.access_token}")).json()["handle"].startswith("tvp_")


async def test_a_handle_is_bound_to_the_key_of_its_token(there: Elsewhere) -> None:
    key, url = ECKey.generate_key("P-256"), there.room.vault.url
    tokens = await sign_agent_in(there.room.vault, there.person, dpop=dpop_proof(key, "POST", f"{url}/token"))
    await allow(there, tokens.client_id, READ)
    proof = dpop_proof(key, "POST", f"{url}{CALLS}", tokens.access_token)
    assert (await ask(there, f"Bearer {tokens.access_token}")).status_code == 401
    given = (await ask(there, f"DPoP {tokens.access_token}", dpop=proof)).json()
    assert given["token_type"] == "DPoP"
    place, handle = f"{url}/proxy/{given['connection_id']}/{given['api']}/user", given["handle"]
    async with httpx2.AsyncClient(timeout=30) as http:
        stolen = await http.get(place, headers={"authorization": f"Bearer {handle}"})
        proved = {"authorization": f"DPoP {handle}", "dpop": dpop_proof(key, "GET", place, handle)}
        assert (stolen.status_code, (await http.get(place, headers=proved)).status_code) == (401, 200)


async def test_new_handles_count_as_requests_for_tokens(there: Elsewhere) -> None:
    tokens = await sign_agent_in(there.room.vault, there.person)
    await allow(there, tokens.client_id, READ)
    deployment = there.room.vault.deployment
    later = monotonic() + 600
    while not deployment.token_requests.spend(there.room.principal.user_id, tokens.client_id, now=later):
        pass
    refused = await ask(there, f"Bearer {tokens.access_token}")
    assert (refused.status_code, "retry-after" in {name.lower() for name in refused.json()["headers"]}) == (429, True)
    assert (await ask(there, f"Bearer {await _fresh(there)}")).status_code == 200  # the twin: another agent


async def test_refused_hosts_of_programs_do_not_count_for_the_calls_of_their_agent(there: Elsewhere) -> None:
    tokens = await sign_agent_in(there.room.vault, there.person)
    await allow(there, tokens.client_id, READ)
    user_id, deployment = there.room.principal.user_id, there.room.vault.deployment
    own, host = {"path": "/nothing/that/is/there"}, {"host": "refused.example"}

    def is_told(event: Event) -> bool:
        return (event.kind, event.client_id) == ("program.called", tokens.client_id)

    async def statuses() -> list[int]:
        return [(await ask(there, f"Bearer {tokens.access_token}", changes=one)).status_code for one in (own, host)]

    assert await statuses() == [403, 403]
    async with asyncio.timeout(30):
        while not (hosts := [one.details["host"] for one in await read_events(deployment) if is_told(one)]):
            await asyncio.sleep(0.05)
    assert hosts == ["refused.example"]
    for place, expected in ((host_place, [403, 429]), (agent_place, [429, 429])):
        while not deployment.budgets.spend(user_id, place(tokens.client_id), now=monotonic() + 600):
            pass
        assert await statuses() == expected


async def ask(
    there: Elsewhere,
    authorization: str,
    *,
    at: str = CALLS,
    dpop: str = "",
    changes: Mapping[str, object] = MappingProxyType({}),
) -> httpx2.Response:
    """The honest request for a call, with changes."""
    headers = {name: value for name, value in (("authorization", authorization), ("dpop", dpop)) if value}
    body = dict(changes) if at == HOSTS else CALL | dict(changes)
    async with httpx2.AsyncClient(timeout=30) as http:
        return await http.post(f"{there.room.vault.url}{at}", json=body, headers=headers)


def dpop_proof(key: ECKey, method: str, url: str, token: str = "") -> str:
    """RFC 9449 §4.2."""
    claims: dict[str, object] = {"jti": secrets.token_hex(8), "htm": method, "htu": url, "iat": int(time())}
    if token:
        claims["ath"] = urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()
    return sign_jwt({"alg": "ES256", "typ": "dpop+jwt", "jwk": key.as_dict(private=False)}, claims, key)


async def allow(there: Elsewhere, client_id: str, scopes: frozenset[str]) -> None:
    """Let another agent use the account."""
    own, there.room.principal = there.room.principal, replace(there.room.principal, client_id=client_id)
    try:
        await there.room.allow(scopes)
    finally:
        there.room.principal = own


async def test_a_signed_in_command_runs_a_program(there: Elsewhere, tmp_path: Path) -> None:
    """The whole command, from its registration to the program's call."""
    machine = Machine(there.room.vault.url, tmp_path / "data")
    with machine.errors.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *PROGRAM, "run", "--url", machine.url, "--agent", "reader",
            "--data", str(machine.data), "--", "curl", "-sS", "--max-time", "60", USER,
            stdout=asyncio.subprocess.PIPE, stderr=errors, env=machine.environment(),
        )  # fmt: skip
    try:
        async with asyncio.timeout(120):
            await in_the_browser(machine, there.person)
            client_id = ""
            while not client_id:
                await asyncio.sleep(0.1)
                client_id = (
                    str(machine.read_credentials()["client_id"]) if list(machine.data.glob("remote/*.json")) else ""
                )
            await allow(there, client_id, READ)
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert json.loads(out)["login"] == "alice", (out, machine.read_errors())


async def _fresh(there: Elsewhere) -> str:
    async with there.access() as access:
        return await access.token()


def test_the_environment_is_printed_for_a_shell_and_as_json() -> None:
    before = {"KEPT": "1", "GONE": "2", "OLD": "3", "BASH_FUNC_x%%": "4"}
    after = {"KEPT": "1", "OLD": "it's", "NEW": "a b"}
    assert text_of(before, after, as_json=False) == "export OLD='it'\"'\"'s'\nexport NEW='a b'\nunset GONE\n"
    told = json.loads(text_of(before, after, as_json=True))
    assert told == {"environment": {"OLD": "it's", "NEW": "a b"}, "removed": ["BASH_FUNC_x%%", "GONE"]}
