"""`token-vault run`: real programs call a provider through the proxy, with credentials that they never see."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from server.provider_settings import OutboundSettings
from tests.conftest import unavailable
from tests.providers.test_reach import running_proxy
from tests.support.rooms.program_room import READ, TOKEN, WRITE, ProgramRoom, program_room, run_in

USER = "https://api.github.com/user"


@pytest_asyncio.fixture(scope="module")
async def shared_room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ProgramRoom]:
    async with program_room(tmp_path_factory.mktemp("programs")) as room:
        yield room


@pytest_asyncio.fixture
async def room(shared_room: ProgramRoom) -> AsyncGenerator[ProgramRoom]:
    await shared_room.allow(READ)
    shared_room.said.clear()
    shared_room.host.arrivals.clear()
    yield shared_room


def needs(program: str) -> None:
    if shutil.which(program) is None:
        unavailable(f"{program} isn't installed")


async def test_curl_reads_with_a_credential_that_it_never_has(room: ProgramRoom) -> None:
    needs("curl")
    ran = await room.run("curl", "-sS", "--max-time", "60", USER)
    assert ran.code == 0, ran.output
    assert ran.json["login"] == "alice"
    assert room.host.arrivals == [("GET", "/rest/user", f"Bearer {TOKEN}")]


async def test_gh_reads_two_pages(room: ProgramRoom) -> None:
    needs("gh")
    ran = await room.run("gh", "api", "--paginate", "user/repos", "--jq", ".[].full_name")
    assert ran.code == 0, ran.output
    assert ran.output.split() == ["octo/1", "octo/2"]
    assert {given for _, _, given in room.host.arrivals} == {f"Bearer {TOKEN}"}


async def test_git_clones_and_may_push_only_where_the_person_allows_it(room: ProgramRoom) -> None:
    needs("git")
    copy = room.folder / "copy"
    cloned = await room.run("git", "clone", "-q", "https://github.com/octo/hello.git", str(copy))
    assert cloned.code == 0, cloned.output
    assert (copy / "README").read_text() == "hello\n"
    (copy / "README").write_text("changed\n")
    mine = ["-c", "user.name=a", "-c", "user.email=a@example"]
    assert (await room.run("git", "-C", str(copy), *mine, "commit", "-qam", "second")).code == 0
    refused = await room.run("git", "-C", str(copy), "push", "-q", "origin", "main")
    assert refused.code != 0
    assert "403" in refused.output
    await room.allow(READ | WRITE)
    pushed = await room.run("git", "-C", str(copy), "push", "-q", "origin", "main")
    assert pushed.code == 0, pushed.output


PYTHON = {
    "urllib": "import json, urllib.request as u; print(json.load(u.urlopen(URL))['login'])",
    "requests": "import requests; print(requests.get(URL).json()['login'])",
    "httpx": "import httpx; print(httpx.get(URL).json()['login'])",
}


@pytest.mark.parametrize(
    "library",
    ["urllib", "requests", pytest.param("httpx", marks=pytest.mark.long)],  # both read the variable for urllib
)
async def test_python_reads(room: ProgramRoom, library: str) -> None:
    ran = await room.python(f"URL = {USER!r}; {PYTHON[library]}")
    assert ran.code == 0, ran.output
    assert ran.output.strip() == "alice"


NODE = {
    "fetch": "fetch(address).then(a => a.json()).then(a => console.log(a.login))",
    "https": "require('https').get(address, a => { let t = ''; a.on('data', d => t += d);"
    " a.on('end', () => console.log(JSON.parse(t).login)) })",
}


@pytest.mark.parametrize("way", NODE)
async def test_node_reads(room: ProgramRoom, way: str) -> None:
    needs("node")
    ran = await room.run("node", "-e", f"const address = {json.dumps(USER)}; {NODE[way]}")
    assert ran.code == 0, ran.output
    assert ran.output.strip() == "alice"


async def test_the_environment_has_a_placeholder_and_no_secret_of_the_vault(room: ProgramRoom) -> None:
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    secrets = {"TOKEN_VAULT_KEYS__FILE": "k", "VAULT_TOKEN": "v", "GH_TOKEN": "ghp_of_the_person", "OTHER": "kept"}
    seen = (await room.python(program, environment=secrets)).json
    assert not {"TOKEN_VAULT_KEYS__FILE", "VAULT_TOKEN"} & seen.keys()
    assert seen["OTHER"] == "kept"
    assert str(seen["GH_TOKEN"]).startswith("token-vault-")
    assert TOKEN not in str(seen)
    assert seen["NO_PROXY"] == ""
    assert not Path(str(seen["SSL_CERT_FILE"])).exists()  # the file was removed with the program


async def test_another_host_is_refused_recorded_and_said_unless_it_is_allowed(room: ProgramRoom) -> None:
    needs("curl")
    address = f"{room.host.url}/rest/user"
    refused = await room.run("curl", "-sS", "--max-time", "60", "https://localhost:1/")
    assert refused.code == 56, refused.output
    assert "403" in refused.output
    assert room.said == ["Refused localhost: it belongs to no connected account. --allow-other-hosts allows it."]
    (event, *_) = await room.events("program.called")
    assert (event.outcome, event.details["host"], event.details["code"]) == ("refused", "localhost", "host_refused")
    other = address.replace("127.0.0.1", "localhost")
    reached = await room.run("curl", "-sS", "--max-time", "60", other, allows_other_hosts=True)
    assert reached.json == {"message": "Bad credentials"}  # the request goes out unchanged
    assert dict(reached.record.hosts) == {("localhost", "ok"): 1}
    tunneled = await room.run("curl", "-sS", "--max-time", "60", "--proxytunnel", other, allows_other_hosts=True)
    assert tunneled.json == {"message": "Bad credentials"}


async def test_other_hosts_are_reached_through_the_operators_proxy(room: ProgramRoom) -> None:
    needs("curl")
    async with running_proxy(1) as proxy:
        proxy.status = 403
        outbound = OutboundSettings.model_validate({"proxy": f"http://127.0.0.1:{proxy.port}"})
        settings = room.vault.deployment.settings.model_copy(update={"outbound": outbound})
        ran = await run_in(
            replace(room.vault.deployment, settings=settings),
            room.principal,
            ["curl", "-sS", "--max-time", "60", "https://93.184.215.14/"],
            folder=room.folder,
            environment={},
            say=room.said.append,
            allows_other_hosts=True,
        )
        assert ran.code == 56, ran.output
        assert [head.split()[:2] for head in proxy.heads] == [["CONNECT", "93.184.215.14:443"]]


async def test_only_the_program_gets_through_the_proxy(room: ProgramRoom) -> None:
    needs("curl")
    script = (
        "import os, subprocess, urllib.parse as p; u = p.urlsplit(os.environ['HTTPS_PROXY']);"
        "wrong = f'http://{u.username}:WRONG@{u.hostname}:{u.port}';"
        "run = lambda proxy: subprocess.run(['curl', '-s', '-o', '/dev/null', '-w', '%{http_connect}', '-x', proxy,"
        f" {USER!r}], capture_output=True, text=True).stdout;"
        "print(run(wrong), run(os.environ['HTTPS_PROXY']))"
    )
    assert (await room.python(script)).output.split() == ["407", "200"]


async def test_what_is_no_address_is_refused_in_words(room: ProgramRoom) -> None:
    script = (
        "import base64, os, socket, urllib.parse as p; u = p.urlsplit(os.environ['HTTP_PROXY'])\n"
        "user = base64.b64encode(f'{u.username}:{u.password}'.encode()).decode()\n"
        "def ask(target):\n"
        "    with socket.create_connection((u.hostname, u.port), 60) as s:\n"
        "        head = [f'GET {target} HTTP/1.1', 'Host: x', f'Proxy-Authorization: Basic {user}', '', '']\n"
        "        s.sendall('\\r\\n'.join(head).encode())\n"
        "        return s.makefile().readline().split()[1:2]\n"
        "print(ask('http://[::1/'), ask('http://[::1]/'))"
    )
    assert (await room.python(script)).output.strip() == "['400'] ['403']"


async def test_a_call_beyond_the_permission_is_refused_with_a_link_in_the_form_of_the_provider(
    room: ProgramRoom,
) -> None:
    needs("gh")
    ran = await room.run(
        "gh", "api", "-X", "PUT", "repos/octo/hello/contents/x", "-f", "message=x", "-f", "content=eA=="
    )
    assert ran.code == 1
    assert "isn't allowed to use" in ran.output
    assert "/connect/" in ran.output
    assert room.host.arrivals == []
    unruled = await room.run("gh", "api", "-X", "DELETE", "repos/octo/hello")
    assert "No request rule of GitHub covers this method and path" in unruled.output
    assert dict(unruled.record.calls) == {("github", "refused"): 1}


async def test_calls_are_counted_by_who_answered_them(room: ProgramRoom) -> None:
    needs("curl")
    curl = ("curl", "-sS", "--max-time", "60", "-o", "/dev/null")
    script = f"{' '.join(curl)} {USER}; {' '.join(curl)} {USER}; {' '.join(curl)} -F a=b -X GET {USER}"
    ran = await room.run("sh", "-c", script)
    assert dict(ran.record.calls) == {("github", "passed"): 2, ("github", "refused"): 1}
    assert len(room.host.arrivals) == 2


async def test_a_call_waits_for_the_permission(room: ProgramRoom) -> None:
    needs("curl")
    await room.allow(frozenset())
    running = asyncio.create_task(room.run("curl", "-sS", "--max-time", "60", USER, wait=60))
    async with asyncio.timeout(60):
        while not room.said:
            await asyncio.sleep(0.05)
    assert "/connect/" in room.said[0]
    await room.allow(READ)
    assert (await running).json["login"] == "alice"


async def test_of_two_accounts_one_is_named(room: ProgramRoom) -> None:
    needs("curl")
    other = await room.connect("bob", token="ghu_of_bob")
    try:
        await room.allow(READ, connection=other)
        unnamed = await room.run("curl", "-sS", "--max-time", "60", USER)
        assert "alice, bob" in str(unnamed.json["message"])
        named = await room.run("curl", "-sS", "--max-time", "60", USER, accounts=["alice"])
        assert named.json["login"] == "alice"
    finally:
        await room.allow(frozenset(), connection=other)


async def test_exit_codes_and_signals_pass(room: ProgramRoom) -> None:
    assert (await room.run("sh", "-c", "exit 7")).code == 7
    assert (await room.run("sh", "-c", "kill -TERM $$")).code == 128 + 15


async def test_handles_end_with_the_program(room: ProgramRoom) -> None:
    needs("curl")
    await room.run("curl", "-sS", "--max-time", "60", USER)
    (event, *_) = await room.events("handle.issued")
    assert event.details["scopes"] == "metadata:read"  # only the rule's scope, not everything that the agent may do
    assert len(str(event.details["token_thumbprint"])) == 43  # SHA-256 of the handle
    rows = await room.vault.deployment.database.fetch("select count(*) as n from handles", {})
    assert rows[0]["n"] == 0
