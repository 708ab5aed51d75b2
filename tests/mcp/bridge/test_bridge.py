"""`stdio --url`: a stdio-only client reaches a remote vault; its person signs in once."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ElicitRequestURLParams, ElicitResult, TextContent

from server.app import build_app, open_deployment
from tests.support.bridge_processes import Machine, by_code, connect, in_the_browser
from tests.support.harness import PASSWORD, free_socket, running_vault, serve_app
from tests.support.inspection import read_events
from tests.support.person import Person
from tests.support.rooms.mcp_room import INITIALIZE, Agent, Room
from tests.support.simulator_apps import wait_until_held
from vault import clients, grants
from vault.records import Client as OAuthClient
from vault.records import ClientKind, Event

POST = {"channel": "#general", "text": "hello"}
CONNECT = "io.github.mcp-token-vault/connect"


@pytest.fixture
async def person(place: Room) -> AsyncGenerator[Person]:
    async with Person(place.url) as opened:
        yield opened


@pytest.fixture
def machine(place: Room, tmp_path: Path) -> Machine:
    return Machine(place.url, tmp_path / "data")


def at_port(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen(128)
    return listening


def text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


async def works(client: Client) -> bool:
    return not (await client.call_tool("connections", {})).is_error


async def signed_in(machine: Machine, person: Person) -> None:
    """Sign in with a separate command, as a user with an impatient client does."""
    answering = asyncio.create_task(in_the_browser(machine, person))
    code, out, err = await machine.run("--sign-in")
    assert (code, await answering != "") == (0, True), err
    assert "is signed in to" in out


async def events(place: Room, kind: str, client_id: object) -> list[Event]:
    found = await read_events(place.vault.deployment, limit=500, newest_first=True)
    return [event for event in found if event.kind == kind and event.client_id == client_id]


async def cut_off(place: Room, client_id: object) -> None:
    deployment = place.vault.deployment
    user = await deployment.database.fetch_one("select user_id from grants where client_id = :id", {"id": client_id})
    assert user is not None
    async with deployment.transaction() as transaction:
        await grants.revoke_client_grants(
            transaction, user_id=str(user["user_id"]), client_id=str(client_id), reason="cut_off", now=deployment.now()
        )


# Signing in


async def test_the_person_signs_in_once_and_later_runs_ask_nothing(
    place: Room, person: Person, machine: Machine
) -> None:
    signing_in = asyncio.create_task(in_the_browser(machine, person))
    async with machine.client() as client:
        assert "Signed in" in await signing_in
        listed = (await client.list_tools()).tools
        async with place.client(await place.agent()) as direct:
            assert listed == (await direct.list_tools()).tools
    async with machine.client(mode="legacy") as client:
        assert await works(client)
    assert not machine.opened.exists()
    kept, told = machine.read_credentials(), machine.read_errors()
    assert "which only you can read" in told
    assert not [name for name in kept if name.endswith("token") and str(kept[name]) in told]
    (file,) = (machine.data / "remote").glob("*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


async def test_without_a_browser_a_code_is_typed_elsewhere(person: Person, machine: Machine) -> None:
    machine.extra["BROWSER"] = ""
    typing = asyncio.create_task(by_code(machine, person))
    async with machine.client() as client:
        await typing
        assert await works(client)


@pytest.mark.long
async def test_an_impatient_client_does_not_end_the_sign_in_that_it_started(person: Person, machine: Machine) -> None:
    process = await machine.start()
    assert process.stdin is not None
    process.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
    await machine.address()
    process.kill()
    await process.wait()
    machine.opened.write_text(machine.shown)
    assert "Signed in" in await in_the_browser(machine, person)
    async with machine.client() as client:
        assert await works(client)
    assert not machine.opened.exists()


@pytest.mark.long
@pytest.mark.parametrize("device", [False, True])
async def test_a_person_who_refuses_is_not_asked_again_at_once(person: Person, machine: Machine, device: bool) -> None:
    refuse = by_code if device else in_the_browser
    answering = asyncio.create_task(refuse(machine, person, decision="deny"))
    async with machine.client(*(["--device"] if device else []), mode="2026-07-28") as client:
        for _ in range(2):
            with pytest.raises(MCPError, match=r"You denied.*--sign-in"):
                await client.list_tools()
        await answering
        assert not machine.opened.exists()
        assert machine.read_errors().count("Sign in to") == 1
        if not device:
            await signed_in(machine, person)  # in a separate command, meanwhile
            assert await works(client)


@pytest.mark.long
async def test_a_keyring_is_used_where_there_is_one(person: Person, machine: Machine) -> None:
    entries = machine.data.parent / "keyring"
    machine.extra |= {
        "PYTHON_KEYRING_BACKEND": "tests.support.doubles.keyring_double.Keyring",
        "KEYRING_DOUBLE": str(entries),
    }
    await signed_in(machine, person)
    assert list(json.loads(entries.read_text())) == [
        f"token-vault/{machine.url} {machine.agent}",
        f"token-vault/{machine.url} {machine.agent} access",
    ]
    assert not list((machine.data / "remote").glob("*.json"))
    async with machine.client() as client:
        assert await works(client)
    code, _, err = await machine.run("--sign-out")
    assert (code, json.loads(entries.read_text())) == (0, {}), err


async def test_a_keyring_that_takes_nothing_leaves_it_to_the_file(person: Person, machine: Machine) -> None:
    entries = machine.data.parent / "keyring"
    machine.extra |= {
        "PYTHON_KEYRING_BACKEND": "tests.support.doubles.keyring_double.RefusingKeyring",
        "KEYRING_DOUBLE": str(entries),
    }
    await signed_in(machine, person)
    assert machine.read_credentials()["refresh_token"]
    async with machine.client() as client:
        assert await works(client)


async def test_a_client_of_the_operators_is_used_where_nobody_can_register(tmp_path: Path) -> None:
    async with running_vault(tmp_path / "vault", overrides={"registration": {"mode": "closed"}}) as vault:
        machine = Machine(vault.url, tmp_path / "machine" / "data")
        code, _, err = await machine.run("--sign-in")
        assert code == 1
        assert "clients add NAME --redirect-uri http://127.0.0.1/callback" in err
        client = OAuthClient(
            id="operators",
            kind=ClientKind.MANUAL,
            name="Bridge",
            auth_method="none",
            redirect_uris=("http://127.0.0.1/callback",),
            created_at=vault.deployment.now(),
        )
        async with vault.deployment.transaction() as transaction:
            await clients.save_client(transaction, client)
        async with Person(vault.url) as person:
            answering = asyncio.create_task(in_the_browser(machine, person))
            code, _, err = await machine.run("--sign-in", "--client-id", "operators")
            assert code == 0, err
            assert "Signed in" in await answering
        assert machine.read_credentials()["client_id"] == "operators"


# Forwarding


@pytest.mark.client("python", "bridge", "input required", "2026-07-28")
@pytest.mark.client("python", "bridge", "-32042", "2025-11-25")
async def test_a_client_that_opens_links_is_asked_and_retries_by_itself(
    place: Room, person: Person, machine: Machine
) -> None:
    await person.sign_in("alice", PASSWORD)

    async def follow_link(context: object, params: object) -> ElicitResult:
        assert isinstance(params, ElicitRequestURLParams)
        await connect(person, params.url)
        return ElicitResult(action="accept")

    machine.give(await place.agent())
    async with machine.client(elicitation_callback=follow_link) as client:
        posted = await client.call_tool("slack_post", POST)
        assert not posted.is_error, text(posted)
    machine.give(await place.agent())
    async with machine.client(elicitation_callback=follow_link, mode="legacy") as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool("slack_post", POST)
        assert refused.value.error.code == -32042
        await connect(person, refused.value.error.data["elicitations"][0]["url"])
        assert not (await client.call_tool("slack_post", POST)).is_error


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("auto", marks=pytest.mark.client("python", "bridge", "words, code", "2026-07-28")),
        pytest.param("legacy", marks=pytest.mark.client("python", "bridge", "words, code", "2025-11-25")),
    ],
)
async def test_a_client_that_opens_no_links_gets_words_and_a_code(
    place: Room, person: Person, machine: Machine, mode: str
) -> None:
    await person.sign_in("alice", PASSWORD)
    machine.give(await place.agent())
    async with machine.client(mode=mode) as client:
        told = await client.call_tool("calendar_list", {})
        meta = (told.meta or {})[CONNECT]
        assert meta["url"] in text(told)
        page = await person.open(meta["device_url"])
        page = await person.submit(page, {"user_code": meta["user_code"]}, form="/device")
        await connect(person, str(page.url))
        assert not (await client.call_tool("calendar_list", {})).is_error
        with pytest.raises(MCPError, match="Unknown tool"):
            await client.call_tool("no_such_tool", {})
        assert await works(client)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_progress_and_cancelling_pass(place: Room, machine: Machine, mode: str) -> None:
    agent = await place.agent()
    await place.connect(agent, "slack", scopes=frozenset({"channels:read", "chat:write"}))
    machine.give(agent)
    seen: list[float] = []
    arrived = asyncio.Event()

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        seen.append(done)
        arrived.set()

    async with machine.client(mode=mode) as client:
        result = await client.call_tool("slack_channels", {}, progress_callback=on_progress)
        assert not result.is_error, text(result)
        async with asyncio.timeout(30):
            await arrived.wait()
        assert seen
        place.simulator.fault("slack.api.conversations.list", "hold")
        calling = asyncio.create_task(client.call_tool("slack_channels", {}))
        await wait_until_held(place.simulator, "slack.api.conversations.list")
        calling.cancel()
        assert await works(client)


# Renewing and ending


async def test_two_bridges_with_an_expired_token_renew_it_once_and_both_live(
    place: Room, person: Person, machine: Machine
) -> None:
    await signed_in(machine, person)
    client_id = machine.read_credentials()["client_id"]
    machine.change(access_token="", expires_at=0)
    async with machine.client() as first, machine.client(mode="legacy") as second:
        assert all(await asyncio.gather(*(works(client) for client in (first, second) for _ in range(3))))
        assert len(await events(place, "token.refreshed", client_id)) == 1
        machine.change(access_token="refused", expires_at=2**31)
    async with machine.client() as third:  # a refused token is renewed, too
        assert await works(third)
    assert len(await events(place, "token.refreshed", client_id)) == 2
    assert not await events(place, "grant.revoked", client_id)


async def test_an_ended_access_is_told_and_asked_for_again(place: Room, person: Person, machine: Machine) -> None:
    await signed_in(machine, person)
    client_id = machine.read_credentials()["client_id"]
    async with machine.client() as client:
        assert await works(client)
        await cut_off(place, client_id)
        again = asyncio.create_task(in_the_browser(machine, person))
        assert await works(client)
        assert "Signed in" in await again
    assert "has ended the access of Bridged agent" in machine.read_errors()
    assert machine.read_credentials()["client_id"] == client_id  # the same agent, so it keeps its permissions


async def test_signing_out_revokes_at_the_vault_and_erases_here(place: Room, person: Person, machine: Machine) -> None:
    await signed_in(machine, person)
    kept = machine.read_credentials()
    async with place.http(Agent(None, str(kept["access_token"]))) as http:
        listed = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        assert (await http.post("/mcp", json=listed)).status_code != 401
        code, out, err = await machine.run("--sign-out")
        assert (code, "access is revoked" in out) == (0, True), err
        assert (await http.post("/mcp", json=listed)).status_code == 401
    assert not list((machine.data / "remote").glob("*.json"))
    assert await clients.get_client(place.vault.deployment.database, str(kept["client_id"])) is None
    code, out, _ = await machine.run("--sign-out")
    assert (code, "Not signed in" in out) == (0, True)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_vault_that_is_away_is_told_and_works_again_when_it_is_back(tmp_path: Path, mode: str) -> None:
    data, machine = tmp_path / "vault", Machine("", tmp_path / "machine" / "data")
    async with running_vault(data) as vault:
        machine.url, settings = vault.url, vault.settings
        machine.give(await Room(vault, None).agent())
        client = await (opened := machine.client(mode=mode)).__aenter__()
        try:
            assert await works(client)
        except BaseException:
            await opened.__aexit__(None, None, None)
            raise
    try:
        with pytest.raises(MCPError, match="Can't reach"):
            await client.call_tool("connections", {})
        listening = at_port(settings.server.port)
        async with open_deployment(settings, data=data) as deployment, serve_app(build_app(deployment), listening):
            assert await works(client)
            assert await works(client)
    finally:
        await opened.__aexit__(None, None, None)


async def test_a_vault_that_is_away_at_the_start_is_told_and_nobody_is_asked(machine: Machine) -> None:
    listening = free_socket()
    machine.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    listening.close()
    with pytest.raises(BaseExceptionGroup) as failed:
        async with machine.client():
            pass
    assert "Can't reach" in repr(failed.value)
    assert not machine.opened.exists()


@pytest.mark.requirement("S-165")
async def test_standard_output_carries_json_rpc_only_and_nothing_carries_a_token(place: Room, machine: Machine) -> None:
    agent = await place.agent()
    machine.give(agent)
    process = await machine.start("--verbose")
    assert process.stdin is not None
    assert process.stdout is not None
    listed = {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}
    for line in (json.dumps(INITIALIZE), "{broken", json.dumps(listed), '"not a message"'):
        process.stdin.write(line.encode() + b"\n")
    async with asyncio.timeout(30):
        lines = [await process.stdout.readline() for _ in range(2)]
        command_line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        process.stdin.close()
        rest, errors = await process.communicate()
    assert {json.loads(line)["id"] for line in lines} == {0, 7}
    assert (rest, process.returncode) == (b"", 0)
    assert b"isn't a message" in errors
    assert agent.token.encode() not in command_line + environment + errors


async def test_a_file_that_others_can_read_is_told_in_the_answer(place: Room, machine: Machine) -> None:
    machine.give(await place.agent())
    (file,) = (machine.data / "remote").glob("*.json")
    file.chmod(0o644)
    async with machine.client(mode="2026-07-28") as client:
        with pytest.raises(MCPError, match="chmod 600"):
            await client.list_tools()
        file.chmod(0o600)
        assert await works(client)


async def test_what_goes_wrong_on_the_command_line_is_one_sentence(machine: Machine) -> None:
    for url, told in (
        ("http://vault.example", "use https for --url"),
        ("vault.example", "set --url to the address of a vault"),
        (f"{machine.url}/elsewhere", "set --url to the address of a vault"),
        (machine.url.replace("localhost", "127.0.0.1"), "has a different public address"),
    ):
        machine.url = url
        code, out, err = await machine.run("--sign-in")
        assert (code, out) == (1, "")
        assert told in err
        assert "Traceback" not in err
