"""Other users of the same machine can neither impersonate the vault nor use what belongs to its owner."""

from __future__ import annotations

import asyncio
import html
import json
import logging
import os
import re
import socket
import sys
import time
import webbrowser
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from mcp_types import CallToolResult, TextContent
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.app import build_app, open_deployment
from server.deployment import Deployment
from server.http import page_texts
from server.lifecycle.loopback import Companion, Holder, address_of, hosts_of, look
from server.mcp.local_owner import find_owner, local_principal
from server.mcp.offer.connections_tool import ConnectionsInput
from server.mcp.offer.connections_tool import look as list_connections
from server.runtime import browser, peers
from server.runtime.browser import browser_opener, forget
from server.runtime.logs import configure
from server.runtime.printable import printable
from server.settings import SettingsRefused, load_settings
from server.sign_in import password
from tests.support.chromium import running_chromium
from tests.support.harness import PASSWORD, RunningVault, free_socket, running_vault, serve_app
from tests.support.other_user import NOBODY, ask, can_bind, listener_program, needs_root
from tests.support.person import Person, forms_of, session_cookie
from tests.support.processes import Place
from vault import grants
from vault.refusals import GrantEnded

POST = {"channel": "#general", "text": "hello"}
SLACK = {"client_id": "a", "client_secret": "b"}


@pytest.fixture
def place(place: Place) -> Place:
    place.configure({"providers": {"slack": SLACK}})
    return place


@pytest.fixture(scope="module")
async def vault(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[RunningVault]:
    async with running_vault(tmp_path_factory.mktemp("shared")) as running:
        yield running


def port_of(vault: RunningVault) -> int:
    return urlsplit(vault.url).port or 0


def text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


OTHERS = (False, True) if os.getuid() == 0 else (False,)


# The address


async def test_a_server_holds_all_that_localhost_can_mean(place: Place) -> None:
    async with place.serve():
        for host in ("127.0.0.1", "::1"):
            for other in OTHERS:
                assert not await can_bind(host, place.port, other=other)
    for host in ("127.0.0.1", "::1"):
        for other in OTHERS:
            assert await can_bind(host, place.port, other=other)


@pytest.mark.parametrize(("host", "other"), [("127.0.0.1", False), ("::1", os.getuid() == 0)])
async def test_a_server_does_not_start_beside_a_stranger_and_says_who_it_is(
    place: Place, host: str, other: bool
) -> None:
    async with listener_program(host, place.port, other=other):
        code, _, err = await place.run("serve")
        assert code == 1
        uid = NOBODY if other else os.getuid()
        assert f"(uid {uid}), process " in err
        assert f":{place.port} is held by user" in err
        assert "set another server.port" in err
    async with place.serve():
        assert (await place.healthy())["status"] == "ok"


async def test_a_stdio_agent_gets_no_link_while_a_stranger_holds_one_of_the_addresses(place: Place) -> None:
    faked = json.dumps({"status": "ok", "vault": "x"})
    async with place.stdio("Test agent") as client:
        given = await client.call_tool("slack_post", POST)
        assert f"{place.url}/connect/" in text(given)  # the twin: nobody else is listening
        connected = (await client.call_tool("connections", {})).structured_content
        assert (connected["manage_url"], connected["problem"]) == (f"{place.url}/connections", None)
        await client.call_tool("connections", {})
    async with (
        listener_program(
            "::1", place.port, f"HTTP/1.1 200 OK\r\ncontent-length: {len(faked)}\r\n\r\n{faked}", other=False
        ),
        place.stdio("Test agent") as client,
    ):
        refused = await client.call_tool("slack_post", POST)
        shown = await client.call_tool("connections", {})
        assert refused.is_error
        for answer in (refused, shown):
            assert str(place.port) in repr(answer)
            assert "localhost" not in repr(answer)
            assert "http" not in repr(answer)
            assert "set another server.port" in text(answer)
        assert shown.structured_content["manage_url"] is None
        for command in ("sign-in", "connections connect slack"):
            code, out, err = await place.run(*command.split())
            assert (code, out) == (1, "")
            assert "another server would receive it" in err


async def test_a_holder_proves_itself_and_nobody_can_pass_the_proof_on(vault: RunningVault) -> None:
    port, address = port_of(vault), address_of(vault.deployment)
    assert (await asyncio.to_thread(look, address)).holder is Holder.OURS
    other = replace(address, key=b"another vault's key")
    assert (await asyncio.to_thread(look, other)).holder is Holder.FOREIGN

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_connection("127.0.0.1", port)
        onward.write(await reader.readuntil(b"\r\n\r\n"))
        writer.write(await there.read(4096))  # everything that our vault answers, including its proof
        writer.close()
        onward.close()

    async with await asyncio.start_server(relay, "::1", port):
        sight = await asyncio.to_thread(look, address)
        assert (sight.holder, sight.stranger) == (Holder.FOREIGN, "::1")
    assert (await asyncio.to_thread(look, address)).holder is Holder.OURS


async def test_a_stranger_who_came_since_the_last_look_gets_no_link(vault: RunningVault) -> None:
    companion = Companion(no_app, address_of(vault.deployment))
    looking = asyncio.create_task(companion.run())
    assert await companion.first_look() is Holder.OURS
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert await companion.trouble() is None
    async with await asyncio.start_server(lambda _, writer: writer.close(), "::1", port_of(vault)):
        assert "[::1]" in (await companion.trouble() or "")
    assert await companion.trouble() is None  # the twin


async def no_app(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that is never called."""


def test_only_loopback_has_several_addresses() -> None:
    assert hosts_of("127.0.0.1") == hosts_of("localhost") == ("127.0.0.1", "::1")
    assert hosts_of("::1") == ("::1", "127.0.0.1")
    assert hosts_of("0.0.0.0") == ("0.0.0.0",)


@pytest.mark.parametrize(
    ("server", "is_refused"),
    [
        ({"host": "0.0.0.0"}, True),
        ({"host": "::"}, True),
        ({"host": "vault.internal"}, True),
        ({"host": "0.0.0.0", "public_url": "http://localhost:8765"}, True),
        ({"host": "0.0.0.0", "public_url": "https://vault.example"}, False),
        ({"host": "127.0.0.1"}, False),
        ({"host": "::1"}, False),
        ({"host": "localhost"}, False),
    ],
)
def test_easy_rules_need_a_listener_on_loopback(server: dict[str, str], is_refused: bool) -> None:
    if is_refused:
        with pytest.raises(SettingsRefused, match=r"Set server\.public_url to the https address"):
            load_settings(overrides={"server": server})
    else:
        settings = load_settings(overrides={"server": server})
        assert settings.registration_mode == ("allow_list" if "public_url" in server else "open")


# Who owns the other end


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_kernel_tells_whose_a_connection_is_until_it_is_closed(host: str) -> None:
    if not peers.can_tell():
        pytest.skip("this platform does not tell")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.bind((host, 0))
        listener.listen()
        client = socket.create_connection(listener.getsockname()[:2])
        ours, theirs = listener.accept()
        with ours:
            assert peers.peer_uid(ours.getsockname()[:2], theirs[:2]) == os.getuid()
            for way in (peers._diagnose, peers._find):
                uid, inode = way(theirs[:2], ours.getsockname()[:2])
                assert (uid, inode) == (os.getuid(), os.fstat(client.fileno()).st_ino)
            assert peers.peer_uid(ours.getsockname()[:2], (host, 1)) is None
            client.close()  # the table shows uid 0 for a socket without an owner, which isn't root
            assert peers.peer_uid(ours.getsockname()[:2], theirs[:2]) is None
            assert [way(theirs[:2], ours.getsockname()[:2])[1] for way in (peers._diagnose, peers._find)] == [0, 0]


def test_a_connection_is_found_however_its_address_is_carried_and_a_listener_is_none() -> None:
    if not peers.can_tell():
        pytest.skip("this platform does not tell")
    with socket.socket() as listener, socket.socket(socket.AF_INET6) as client, socket.socket() as other:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(("::ffff:127.0.0.1", listener.getsockname()[1]))
        ours, theirs = listener.accept()
        with ours:
            for way in (peers._diagnose, peers._find):
                assert way(theirs, ours.getsockname()) == (os.getuid(), os.fstat(client.fileno()).st_ino)
            other.bind(("127.0.0.1", 0))
            other.listen()
            assert peers.peer_uid(ours.getsockname(), other.getsockname()) is None


def test_root_may_what_the_owner_may_and_others_may_not() -> None:
    assert peers.is_ours(os.getuid())
    assert peers.is_ours(peers.ROOT)
    assert not peers.is_ours(os.getuid() + 1)
    assert not peers.is_ours(None)


@needs_root
async def test_another_user_cannot_use_the_owners_link_or_use_it_up(vault: RunningVault) -> None:
    owner = await vault.add_user("linked owner")
    link = await password.owner_link(vault.deployment, owner.id, return_to="/agents")
    host, path = urlsplit(vault.url).netloc, link.removeprefix(vault.url)
    status, fields, page = await ask(port_of(vault), path, headers={"host": host})
    assert status == 403
    assert "another user of this computer" in page
    assert not [value for name, value in fields if name == "set-cookie" and "token_vault_browser" not in value]
    async with vault.person() as person:
        assert (await person.open(link)).url.path == "/agents"


@needs_root
async def test_another_user_opens_no_window_of_the_owners(vault: RunningVault) -> None:
    opened: list[str] = []

    def open_browser(url: str) -> bool:
        opened.append(url)
        return True

    sock = free_socket()
    host = f"localhost:{sock.getsockname()[1]}"
    server = vault.settings.server.model_copy(update={"public_url": f"http://{host}"})
    settings = vault.settings.model_copy(update={"server": server})
    async with (
        open_deployment(settings, data=vault.deployment.data, open_browser=open_browser) as deployment,
        serve_app(build_app(deployment), sock),
        Person(f"http://{host}") as owner,
    ):
        await find_owner(deployment)
        port = sock.getsockname()[1]
        _, fields, page = await ask(port, "/sign-in", headers={"host": host})
        cookie = next(value for name, value in fields if name == "set-cookie").partition(";")[0]
        form = next(one for one in forms_of(page) if one.action == "/sign-in/local")
        headers = {"host": host, "cookie": cookie, "origin": f"http://{host}"}
        headers["content-type"] = "application/x-www-form-urlencoded"
        body = urlencode(form.fill_in({}))
        status, _, page = await ask(port, "/sign-in/local", method="POST", body=body, headers=headers)
        assert status == 403
        assert page_texts.english()["refused"]["other_user_title"] in html.unescape(page)
        assert page_texts.english()["refused"]["other_user"] in html.unescape(page)
        assert opened == []
        await owner.submit(await owner.open("/sign-in"), form="/sign-in/local")  # the twin
        assert len(opened) == 1


@needs_root
async def test_another_user_cannot_use_a_session_or_plant_one(vault: RunningVault) -> None:
    host, port = urlsplit(vault.url).netloc, port_of(vault)
    async with vault.person() as person:
        await person.sign_in("alice", PASSWORD)
        stolen = session_cookie(person.http)
        assert (await person.http.get("/account")).status_code == 200
        status, fields, _ = await ask(port, "/account", headers={"host": host, "cookie": stolen})
        assert (status, dict(fields)["location"].partition("?")[0]) == (303, "/sign-in")
        assert (await person.http.get("/account")).status_code == 200, "its owner keeps it"
    # The other user's session has no effect in our browser.
    _, fields, page = await ask(port, "/sign-in", headers={"host": host})
    browser = next(value for name, value in fields if name == "set-cookie").partition(";")[0]
    form = next(one for one in forms_of(page) if one.action == "/sign-in")
    body = urlencode(form.fill_in({"name": "alice", "password": PASSWORD}))
    headers = {
        "host": host,
        "cookie": browser,
        "origin": vault.url,
        "content-type": "application/x-www-form-urlencoded",
    }
    status, fields, _ = await ask(port, "/sign-in", method="POST", body=body, headers=headers)
    assert status == 303
    planted = next(v for n, v in fields if n == "set-cookie" and "browser" not in v and "known" not in v).partition(
        ";"
    )[0]
    status, _, _ = await ask(port, "/account", headers={"host": host, "cookie": planted})
    assert status == 200
    async with vault.person() as victim:
        assert (await victim.http.get("/account", headers={"cookie": planted})).status_code == 303


@pytest.mark.parametrize("cookie", ["session", "browser", "known", "openid"])
def test_a_cookie_counts_for_the_user_that_it_was_given_to(vault: RunningVault, cookie: password.Cookie) -> None:
    def request(uid: int | None, sent: str = "") -> Request:
        headers = [(b"cookie", sent.encode())] if sent else []
        return Request({"type": "http", "headers": headers, "token_vault.peer": password.Peer(uid)})

    answer = Response()
    password.set_cookie(vault.deployment, request(1000), answer, cookie, value="v" * 43)
    sent = answer.headers["set-cookie"].partition(";")[0]
    assert sent.partition("=")[0].endswith(vault.deployment.vault_id[:8])
    assert password.read_cookie(vault.deployment, request(1000, sent), cookie) == "v" * 43
    name = password.cookie_name(vault.deployment, cookie)
    for uid, tried in ((1001, sent), (None, sent), (1000, f"{name}={'v' * 43}"), (1000, f"{sent}0")):
        assert password.read_cookie(vault.deployment, request(uid, tried), cookie) == ""
    answer = Response()
    password.set_cookie(vault.deployment, request(None), answer, cookie, value="v" * 43)
    sent = answer.headers["set-cookie"].partition(";")[0]
    assert password.read_cookie(vault.deployment, request(None, sent), cookie) == ""


@pytest.mark.group("browser")
async def test_a_browser_that_is_given_the_private_file_ends_up_signed_in(vault: RunningVault) -> None:
    owner = await vault.add_user("file owner")
    link = await password.owner_link(vault.deployment, owner.id, return_to="/agents")
    file = browser._write(vault.deployment.data / "opening", link)
    assert file.stat().st_mode & 0o777 == 0o600
    async with running_chromium() as chromium:
        page = await chromium.new_page()
        await page.goto(file.as_uri())
        await page.wait_for_url("**/agents", timeout=30_000)
        assert "file owner" in await page.content()
    assert not file.exists(), "used, so it is gone"
    other = browser._write(vault.deployment.data / "opening", f"{link}-another")
    browser.forget(vault.deployment.data, link)
    assert other.exists()  # the twin: the file of another link stays


# A local agent that was cut off


async def _local(deployment: Deployment) -> None:
    principal = await local_principal(deployment, "Cut off")
    asked = ConnectionsInput()
    assert (await list_connections(deployment, principal, asked)).connections == []
    async with deployment.transaction() as transaction:
        await grants.revoke_grant(transaction, principal.grant_id, reason="test", now=deployment.now())
    with pytest.raises(GrantEnded):
        await list_connections(deployment, principal, asked)


async def test_a_local_agent_that_was_cut_off_does_not_even_see_the_accounts(place: Place) -> None:
    async with open_deployment(load_settings(data=place.data), data=place.data) as deployment:
        await _local(deployment)


# The end of a process


async def _stdio(place: Place) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *place.arguments("stdio", "--client", "Raw", "--no-browser"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=place.environment(),
    )
    info = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    await _send(process, {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": info})
    assert process.stdout is not None
    async with asyncio.timeout(40):
        assert json.loads(await process.stdout.readline())["id"] == 1
    return process


async def _send(process: asyncio.subprocess.Process, *messages: object) -> None:
    assert process.stdin is not None
    process.stdin.write("".join(json.dumps(message) + "\n" for message in messages).encode())
    await process.stdin.drain()


async def test_an_interrupt_ends_stdio_without_waiting_for_a_line(place: Place) -> None:
    process = await _stdio(place)
    process.send_signal(2)
    async with asyncio.timeout(60):  # what is being imported is imported to its end
        _, err = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in err


async def test_a_client_that_closes_its_end_in_the_middle_ends_stdio_quietly(place: Place) -> None:
    process = await _stdio(place)
    assert process.stdout is not None
    process.stdout._transport.close()
    await _send(
        process,
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
    )
    assert process.stderr is not None
    async with asyncio.timeout(30):
        err = await process.stderr.read()
        assert await process.wait() == 0
    assert err == b""


@needs_root
async def test_a_user_without_a_home_is_told_to_name_a_data_directory(tmp_path: Path) -> None:
    code = "import os\nos.setgroups([]); os.setgid(54321); os.setuid(54321)\nfrom server.settings import *\n"
    code += "try:\n    default_data_directory()\nexcept SettingsRefused as refused:\n    print(refused)\n"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[3])}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import server.settings\n" + code, stdout=asyncio.subprocess.PIPE, env=environment
    )
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    assert b"--data or TOKEN_VAULT_DATA" in out


# What is written to a terminal and a log


@pytest.mark.parametrize("unsafe", ["\x1b[2J", "\u009b2J", "\u202egnp.exe", "\u2066", "\r", "\u2028", "\ud800", "\x00"])
def test_control_and_direction_characters_are_escaped(unsafe: str) -> None:
    shown = printable(f"name{unsafe}")
    assert shown.isprintable()
    assert json.loads(f'"{shown}"') == f"name{unsafe}"


def test_ordinary_names_are_left_alone() -> None:
    for name in ("Zoë Ångström", "می‌خواهم", "👩‍🔬", "日本語"):
        assert printable(name) == name
    assert printable("two\nlines", kept="\n") == "two\nlines"


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # it keeps running on purpose
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_list_of_processes_shows_the_owners_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the program that opens the browser nor the browser gets the link as an argument."""
    script, told = tmp_path / "browser", tmp_path / "told"
    shown = f"{{ echo \"$@\"; tr '\\0' ' ' </proc/$PPID/cmdline; }} >{told}.part"
    script.write_text(f"#!/bin/sh\n{shown}\nmv {told}.part {told}\n", encoding="utf-8")
    script.chmod(0o700)
    monkeypatch.setenv("BROWSER", f"{script} %s")
    monkeypatch.setattr(webbrowser, "_tryorder", None)  # detect browsers again
    data, url = tmp_path / "data", "http://localhost:8765/sign-in/owner?secret=canary-of-the-link"
    data.mkdir(mode=0o700)
    opened = browser_opener(data)
    assert opened is not None and opened(url)
    try:
        until = time.monotonic() + 60
        while not told.exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        found = told.read_text(encoding="utf-8")
        assert "canary" not in found
        (file,) = re.findall(r"file://(\S+\.html)", found)
        assert "canary" in Path(file).read_text(encoding="utf-8")  # the twin: the file has the link
    finally:
        forget(data, url)  # ends the program


def test_what_strangers_send_cannot_forge_or_hide_a_line_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.root.handlers[:], logging.root.level
    configure(verbose=True)
    try:
        log = logging.getLogger("token_vault.test")
        log.info("told", extra={"name_of_client": "a\u009b2J\u202eb", "line": "x\n2026 INFO forged"})
        try:
            raise ValueError("x\n2026-01-01 INFO forged \u009b")
        except ValueError:
            log.exception("failed")
        exec(compile("log.info('stack', stack_info=True)", "2026 INFO forged\u009b", "exec"), {"log": log})
    finally:
        logging.root.handlers[:], level = before
        logging.root.setLevel(level)
    written = capsys.readouterr().err
    assert all(line.isprintable() for line in written.splitlines())
    assert "\\u009b2J\\u202eb" in written
    assert not [line for line in written.splitlines() if line.startswith(("2026 INFO", "2026-01-01"))]


async def test_a_command_shows_a_name_without_its_control_characters(place: Place) -> None:
    code, out, err = await place.run("clients", "add", "na\u009b2J\u202eme", "--redirect-uri", "https://a.example/cb")
    assert "\u009b" not in out + err
    assert "\u202e" not in out + err
    assert code in {0, 1}
