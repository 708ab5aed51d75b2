"""`token-vault doctor` finds each seeded mistake and its fix, and finds nothing once only that mistake is undone."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import socket
import sqlite3
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from providers.simulator.accounts import CLIENT_ID, CLIENT_SECRET, PUBLIC_CLIENT_ID
from providers.simulator.running import Simulator, running_simulator
from server.app import build_app, open_deployment
from server.cli import app
from server.settings import load_settings
from tests.conftest import PostgresCluster, Store
from tests.support.harness import free_socket, serving
from tests.support.mcp_room import Room, room
from tests.support.poolers import pgbouncer
from tests.support.private import private_mounts
from tests.support.processes import Place, free_port
from tests.support.tls import make_authority, tls_proxy

Found = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
async def simulator() -> AsyncGenerator[Simulator]:
    async with running_simulator() as opened:
        yield opened


@pytest.fixture
def place(tmp_path: Path, prepared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    data = tmp_path / "data"
    shutil.copytree(prepared_data, data)
    data.chmod(0o700)
    made = Place(data, free_port())
    made.configure()
    return made


def configure(place: Place, *lines: str) -> None:
    """The settings file of the place; `lines` go on in `[server]`."""
    text = "\n".join(["[server]", f"port = {place.port}", *lines])
    (place.data / "config.toml").write_text(text + "\n")


async def examine(place: Place, *, fails: bool = False) -> Found:
    """What the doctor says, by check; the worst where one check says several things."""
    arguments = ["doctor", "--json", "--data", str(place.data)]
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert result.exit_code == (1 if fails else 0), result.output
    found: Found = {}
    for one in json.loads(result.stdout):
        assert (one["fix"] is not None) is (one["verdict"] != "ok"), one
        if one["check"] not in found or one["verdict"] == "problem":
            found[one["check"]] = one
    return found


def assert_problem(found: Found, check: str, *words: str) -> None:
    assert found[check]["verdict"] == "problem", found[check]
    for word in words:
        assert word in found[check]["sentence"] + found[check]["fix"], found[check]


def slack(simulator: Simulator, **changes: object) -> list[str]:
    return section_of("slack", {**simulator.slack_settings(), **changes})


def section_of(name: str, section: Mapping[str, object]) -> list[str]:
    lines = ["[sandbox]", "loopback_upstreams = true", f"[providers.{name}]"]
    for key, value in section.items():
        if isinstance(value, dict):
            lines += [f"{key}.{part} = {json.dumps(text)}" for part, text in value.items()]
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    return lines


@asynccontextmanager
async def answering(port: int, status: str, body: object, *headers: str) -> AsyncGenerator[None]:
    """A stranger on the port that says the same to everybody."""
    content = json.dumps(body).encode()
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close", *headers])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head.encode() + b"\r\n\r\n" + content)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def served(place: Place) -> AsyncGenerator[str]:
    """A process that serves the vault, with the settings as they are now; the vault's id."""
    listening = socket.create_server(("127.0.0.1", place.port))
    settings = load_settings(place.data / "config.toml", data=place.data)
    async with open_deployment(settings, data=place.data) as deployment, serving(build_app(deployment), listening):
        yield deployment.vault_id


async def test_a_healthy_vault_that_serves_is_all_green(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    async with room(tmp_path / "data") as healthy:
        place = Place(tmp_path / "data", urlsplit(healthy.url).port or 0)
        settings = healthy.simulator.settings()
        place.configure({"providers": settings})
        (place.data / "config.toml").chmod(0o600)
        found = await examine(place)
        assert {one["verdict"] for one in found.values()} == {"ok"}, found
        assert f"{healthy.url}/connect/callback/slack" in found["slack.redirect"]["sentence"]
        assert {"slack.client", "google.client", "port", "public_url", "database", "clock", "key"} <= set(found)


async def test_in_words_every_line_has_its_verdict_and_its_fix_below(place: Place) -> None:
    result = await asyncio.to_thread(CliRunner().invoke, app, ["doctor", "--data", str(place.data)])
    assert result.exit_code == 0
    assert "note     port" in result.stdout
    assert "fix: start token-vault serve" in result.stdout


async def test_settings_that_cannot_be_read(place: Place) -> None:
    configure(place, "prot = 1")
    assert_problem(
        await examine(place, fails=True), "settings", "server.prot", "correct server.prot", "Did you mean port?"
    )
    for bad, setting in (
        ('[database]\nurl = "mysql://x"\n', "database.url"),
        ('[keys]\nsource = "fiel"\n', "keys.source"),
    ):
        (place.data / "config.toml").write_text(bad)
        worst = [one for one in (await examine(place, fails=True)).values() if one["verdict"] == "problem"]
        assert any(f"correct {setting}" in one["fix"] for one in worst), worst
    configure(place)
    assert (await examine(place))["settings"]["verdict"] == "ok"


async def test_a_server_without_its_fast_parts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "httptools", None)
        assert_problem(await examine(place, fails=True), "packages", "httptools", "pip install")
    assert (await examine(place))["packages"]["verdict"] == "ok"


async def test_a_data_directory_that_others_can_enter(place: Place) -> None:
    place.data.chmod(0o755)
    assert_problem(await examine(place, fails=True), "data", f"chmod 700 {place.data}")
    place.data.chmod(0o700)
    assert (await examine(place))["data"]["verdict"] == "ok"


async def test_a_key_file_that_others_can_read_is_gone_or_is_another(place: Place) -> None:
    key = place.data / "master.key"
    kept = key.read_text()
    key.chmod(0o644)
    assert_problem(await examine(place, fails=True), "key", f"chmod 600 {key}")
    key.unlink()
    assert_problem(await examine(place, fails=True), "key", "is missing", "backup")
    key.write_text("A" * 43 + "=\n")
    key.chmod(0o600)
    assert_problem(
        await examine(place, fails=True), "key", "restore the key", "keys.source is 'file'", f"keys.file {key}"
    )
    key.write_text(kept)
    assert (await examine(place))["key"]["verdict"] == "ok"


async def test_a_secret_file_that_others_can_read(place: Place, simulator: Simulator, tmp_path: Path) -> None:
    secret = tmp_path / "slack-secret"
    section = simulator.slack_settings()
    secret.write_text(str(section.pop("client_secret")))
    lines = [line for line in slack(simulator) if not line.startswith("client_secret")]
    configure(place, *lines, f"client_secret_file = {json.dumps(str(secret))}")
    secret.chmod(0o644)
    assert_problem(await examine(place, fails=True), "secrets", f"chmod 600 {secret}")
    secret.chmod(0o600)
    assert "secrets" not in await examine(place)
    secret.unlink()
    assert_problem(
        await examine(place, fails=True),
        "settings",
        "cannot read",
        "make the file readable",
        "correct providers.slack.client_secret_file",
    )


async def test_a_settings_file_with_a_secret_that_others_can_read(place: Place, simulator: Simulator) -> None:
    configure(place, *slack(simulator))
    config = place.data / "config.toml"
    config.chmod(0o644)
    assert_problem(await examine(place, fails=True), "secrets", f"chmod 600 {config}")
    config.chmod(0o600)
    assert "secrets" not in await examine(place)


async def test_a_database_of_a_newer_program(place: Place) -> None:
    with closing(sqlite3.connect(place.data / "vault.sqlite")) as connection, connection:
        connection.execute("insert into schema_versions (number, applied_at) values (99, 0)")
    assert_problem(await examine(place, fails=True), "database", "schema version 99", "Start the newer")
    with closing(sqlite3.connect(place.data / "vault.sqlite")) as connection, connection:
        connection.execute("delete from schema_versions where number = 99")
    assert (await examine(place))["database"]["verdict"] == "ok"


async def test_a_database_that_cannot_be_reached(place: Place) -> None:
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    configure(place, "[database]", f'url = "{url}"')
    assert_problem(await examine(place, fails=True), "database", "PostgreSQL", "database.url")
    configure(place)
    assert (await examine(place))["database"]["verdict"] == "ok"


async def test_a_database_that_takes_no_writes(postgres_store: Store, postgres: PostgresCluster) -> None:
    place = Place(postgres_store.data, free_port())
    configure(place, "[database]", f'url = "{postgres_store.url}"')
    name = urlsplit(postgres_store.url).path.removeprefix("/")
    assert (await examine(place))["database"]["verdict"] == "ok"
    await postgres._execute(f'alter database "{name}" set default_transaction_read_only = on')
    assert_problem(await examine(place, fails=True), "database", "writable")
    await postgres._execute(f'alter database "{name}" reset default_transaction_read_only')
    assert (await examine(place))["database"]["verdict"] == "ok"


async def test_a_pooler_in_front_of_the_database(postgres_store: Store) -> None:
    place = Place(postgres_store.data, free_port())
    configure(place, "[database]", f'url = "{postgres_store.url}"')
    assert "pooler" not in await examine(place)
    async with pgbouncer(postgres_store.url) as url:
        configure(place, "[database]", f'url = "{url}"')
        found = await examine(place)
        assert (found["pooler"]["verdict"], found["database"]["verdict"]) == ("note", "ok")
        assert "not checked" in found["pooler"]["sentence"]
        for line in ("query_wait_timeout = 5", "server_login_retry = 1", "server_connect_timeout = 2", "SHOW CONFIG"):
            assert line in str(found["pooler"]["fix"])
    async with pgbouncer(postgres_store.url, {"max_prepared_statements": 0}) as url:
        configure(place, "[database]", f'url = "{url}"')
        assert_problem(await examine(place, fails=True), "database", "max_prepared_statements = 200", "database.url")


async def test_a_sqlite_file_system_that_takes_no_writes(place: Place) -> None:
    """Root writes anywhere but on a read-only mount, so the data directory is mounted like that for one process."""
    command = shlex.join([sys.executable, "-m", "token_vault", "doctor", "--json", "--data", str(place.data)])
    shown: dict[str, Found] = {}
    for how in ("ro", "rw"):
        mounted = (
            f"mount --bind {place.data} {place.data} && mount -o remount,bind,{how} {place.data} && exec {command}"
        )
        process = await asyncio.create_subprocess_exec(
            *private_mounts(), "sh", "-c", mounted, stdout=asyncio.subprocess.PIPE, env=place.environment()
        )
        async with asyncio.timeout(30):
            out, _ = await process.communicate()
        shown[how] = {one["check"]: one for one in json.loads(out)}
        assert process.returncode == (1 if how == "ro" else 0), shown[how]
    assert_problem(shown["ro"], "database", "read-only", "writable")
    assert shown["rw"]["database"]["verdict"] == "ok"


async def test_a_port_that_a_stranger_holds_and_one_that_is_ours(place: Place) -> None:
    async with answering(place.port, "200 OK", {"status": "ok", "vault": "another"}):
        found = await examine(place, fails=True)
        assert_problem(found, "port", "another program", "server.port")
        assert_problem(found, "public_url", "something other")
    silent = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", place.port)
    async with silent:
        found = await examine(place, fails=True)
        assert_problem(found, "port", "another program", "server.port")
        assert_problem(found, "public_url", "can't be reached", "the port first")
    assert (await examine(place))["port"]["verdict"] == "note"
    async with served(place):
        found = await examine(place)
        assert (found["port"]["verdict"], found["public_url"]["verdict"]) == ("ok", "ok")


async def test_a_public_url_that_is_not_what_clients_see(place: Place) -> None:
    """The process was started before the address was changed in the settings."""
    other = f'public_url = "http://127.0.0.1:{place.port}"'
    async with served(place):
        configure(place, other)
        found = await examine(place, fails=True)
        assert_problem(
            found, "public_url", f"http://localhost:{place.port}", f"http://127.0.0.1:{place.port}", "redirect"
        )
    async with served(place):
        assert (await examine(place))["public_url"]["verdict"] == "ok"


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        ("421 Misdirected Request", (), ("Host", "server.allowed_hosts")),
        (
            "301 Moved",
            ("Location: https://elsewhere.example/healthz",),
            ("https://elsewhere.example", "server.public_url"),
        ),
        ("502 Bad Gateway", (), ("something other", "proxy")),
    ],
)
async def test_a_proxy_in_front_that_does_it_wrong(
    place: Place, status: str, headers: tuple[str, ...], words: tuple[str, ...]
) -> None:
    front = free_port()
    configure(place, f'public_url = "http://localhost:{front}"')
    async with served(place):
        assert_problem(await examine(place, fails=True), "public_url", "can't be reached", "proxy")
        async with answering(front, status, {}, *headers):
            assert_problem(await examine(place, fails=True), "public_url", *words)


@pytest.mark.parametrize(
    ("trusted", "host", "words"),
    [
        (True, "localhost", ()),
        (False, "localhost", ("certificate", "doesn't trust its issuer", "SSL_CERT_FILE")),
        (True, "other.example", ("certificate", "isn't for localhost", "server.public_url")),
    ],
)
async def test_the_certificate_of_the_public_url(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, trusted: bool, host: str, words: tuple[str, ...]
) -> None:
    authority, front = make_authority(tmp_path, host), free_socket()
    configure(place, f'public_url = "https://localhost:{front.getsockname()[1]}"')
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.authority))
    async with served(place), tls_proxy(front, authority, backend=place.port):
        found = await examine(place, fails=bool(words))
        assert found["public_url"]["verdict"] == ("problem" if words else "ok"), found
        assert found["port"]["verdict"] == "ok", found  # its only name is the public one
        for word in words:
            assert word in found["public_url"]["sentence"] + found["public_url"]["fix"], found


async def test_an_https_address_that_speaks_no_tls(place: Place) -> None:
    front = free_port()
    configure(place, f'public_url = "https://localhost:{front}"')
    async with served(place):
        reached = asyncio.Event()

        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reached.set()
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(plain, "127.0.0.1", front):
            assert_problem(await examine(place, fails=True), "public_url", "doesn't use TLS", "proxy")
        assert reached.is_set()


async def test_a_clock_that_is_off(place: Place) -> None:
    async with served(place) as vault_id:
        known = {"vault": vault_id, "issuer": place.url}
    async with answering(place.port, "200 OK", known, "Date: Mon, 01 Jan 2024 00:00:00 GMT"):
        assert_problem(await examine(place, fails=True), "clock", "NTP")
    async with answering(place.port, "200 OK", known):
        seen = await examine(place, fails=True)
        assert seen["clock"]["verdict"] == "ok"
        assert_problem(seen, "port", "(uid ")  # who repeats the vault's id has not proved anything


async def test_a_providers_clock_that_is_off(place: Place, simulator: Simulator) -> None:
    port = free_port()
    configure(place, *slack(simulator, token_url=f"http://127.0.0.1:{port}/token"))
    (place.data / "config.toml").chmod(0o600)
    refusal = {"ok": False, "error": "invalid_code"}
    async with answering(port, "200 OK", refusal, "Date: Mon, 01 Jan 2024 00:00:00 GMT"):
        assert_problem(await examine(place, fails=True), "clock", "Slack", "NTP")
    async with answering(port, "200 OK", refusal):
        assert (await examine(place))["clock"]["verdict"] == "ok"


async def test_headers_of_a_proxy_that_anybody_could_forge(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "proxy" not in await examine(place)
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    ignored = await examine(place)
    assert ignored["proxy"]["verdict"] == "note"
    assert "server.trusted_proxies" in ignored["proxy"]["fix"]
    monkeypatch.delenv("FORWARDED_ALLOW_IPS")
    public_url = f'public_url = "https://localhost.example:{place.port}"'
    configure(place, public_url)
    unnamed = await examine(place)
    assert unnamed["proxy"]["verdict"] == "note"
    assert "counts as a single address" in unnamed["proxy"]["sentence"]
    configure(place, public_url, 'trusted_proxies = ["127.0.0.1"]')
    assert (await examine(place))["proxy"]["verdict"] == "ok"
    configure(place, 'trusted_proxies = ["0.0.0.0/0"]')
    assert_problem(await examine(place, fails=True), "settings", "trusted_proxies", "docs/reference/settings.md")


@pytest.mark.parametrize("change", [{"client_secret": "wrong"}, {"client_id": "nobody"}])
async def test_a_client_id_or_secret_that_is_refused(
    place: Place, simulator: Simulator, change: dict[str, str]
) -> None:
    configure(place, *slack(simulator, **change))
    (place.data / "config.toml").chmod(0o600)
    before = len(simulator.books()["redemptions"])
    assert_problem(await examine(place, fails=True), "slack.client", "rejects", "token-vault providers setup slack")
    configure(place, *slack(simulator))
    assert (await examine(place))["slack.client"]["verdict"] == "ok"
    assert not [one for one in simulator.books()["redemptions"][before:] if one.get("outcome") == "ok"]


async def test_a_google_client_that_is_refused(place: Place, simulator: Simulator) -> None:
    configure(place, *section_of("google", {**simulator.google_settings(), "client_secret": "wrong"}))
    (place.data / "config.toml").chmod(0o600)
    assert_problem(await examine(place, fails=True), "google.client", "invalid_client")


@pytest.mark.parametrize("provider", ["slack", "google"])
async def test_a_redirect_address_that_is_not_registered_there(
    place: Place, simulator: Simulator, provider: str
) -> None:
    redirect = f"{place.url}/connect/callback/{provider}"
    configure(place, *section_of(provider, simulator.settings()[provider]))
    (place.data / "config.toml").chmod(0o600)
    simulator.control("client", redirect_uris=[f"{place.url}/connect/callback"])
    found = await examine(place, fails=True)
    assert_problem(found, f"{provider}.redirect", "doesn't know our redirect", f"exactly {redirect}", "--show")
    assert found[f"{provider}.client"]["verdict"] == "ok"
    simulator.control("client", redirect_uris=[redirect])
    assert (await examine(place))[f"{provider}.redirect"]["verdict"] == "ok"
    simulator.control("client", redirect_uris=None)


async def test_user_scopes_that_the_app_there_does_not_have(place: Place, simulator: Simulator) -> None:
    one = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    configure(place, *slack(simulator))
    (place.data / "config.toml").chmod(0o600)
    simulator.control("app", **one, user_scopes=["channels:read", "channels:history"])
    found = await examine(place, fails=True)
    assert_problem(
        found,
        "slack.scopes",
        "invalid_scope_requested",
        "user scopes to the app at Slack: channels:history channels:read",
    )
    simulator.control("app", **one, user_scopes=["channels:read", "channels:history", "chat:write"])
    some = (await examine(place))["slack.scopes"]
    assert (some["verdict"], "skip those tools" in some["fix"]) == ("note", True)
    assert "chat:write" not in some["fix"]
    simulator.control("app", **one)
    assert "slack.scopes" not in await examine(place)


@pytest.mark.parametrize(
    ("status", "body", "location", "check"),
    [
        ("200 OK", "redirect_uri did not match any configured URIs. Passed URI: x", "", "slack.redirect"),
        ("200 OK", "Unable to install. Invalid requested permissions.", "", "slack.scopes"),
        ("200 OK", "a sign-in page; its script knows invalid_scope and bad_redirect_uri", "", None),
        ("403 Forbidden", "invalid_team_for_non_distributed_app", "", "slack.authorize"),
        ("403 Forbidden", "something_new", "", None),
        (
            "302 Found",
            "",
            "https://there.example/signin/oauth/error?authError=ChVyZWRpcmVjdF91cmlfbWlzbWF0Y2g",
            "slack.redirect",
        ),
        ("302 Found", "", "https://there.example/signin/oauth/error?authError=Cg5kZWxldGVkX2NsaWVudBI", "slack.client"),
        ("302 Found", "", "https://there.example/signin/oauth/error?authError=%FF%FF", None),
        ("302 Found", "", "http://localhost/cb?error=invalid_scope", "slack.scopes"),
        ("302 Found", "", "https://there.example/v3/signin/identifier?client_id=x", None),
    ],
)
async def test_what_an_authorization_page_says_before_anybody_signs_in(
    place: Place, simulator: Simulator, *, status: str, body: str, location: str, check: str | None
) -> None:
    port = free_port()
    configure(place, *slack(simulator, authorize_url=f"http://127.0.0.1:{port}/authorize"))
    (place.data / "config.toml").chmod(0o600)
    headers = (f"Location: {location}",) if location else ()
    async with answering(port, status, body, *headers):
        found = await examine(place, fails=check is not None)
    if check is not None:
        assert found[check]["verdict"] == "problem", found
    assert "/connect/callback/slack" in found["slack.redirect"]["sentence"] + (found["slack.redirect"]["fix"] or "")


async def test_a_provider_on_this_machine_needs_the_sandboxs_switch(place: Place, simulator: Simulator) -> None:
    lines = [line for line in slack(simulator) if "loopback_upstreams" not in line]
    configure(place, *lines)
    (place.data / "config.toml").chmod(0o600)
    found = await examine(place, fails=True)
    assert_problem(found, "slack.client", "doesn't connect to")
    assert "sandbox.loopback_upstreams = true" in (found["slack.client"]["fix"] or "")


async def test_a_provider_that_does_not_answer(place: Place, simulator: Simulator) -> None:
    configure(place, *slack(simulator, token_url=f"http://127.0.0.1:{free_port()}/token"))
    (place.data / "config.toml").chmod(0o600)
    assert_problem(
        await examine(place, fails=True), "slack.client", "doesn't answer", "correct providers.slack.token_url"
    )


@pytest.mark.parametrize(
    ("status", "code", "verdict", "word"),
    [
        ("200 OK", "bad_redirect_uri", "problem", "/connect/callback/slack"),
        ("200 OK", "something_new", "note", "something_new"),
        ("503 Busy", "", "note", "again"),
        ("200 OK", "invalid_code", "ok", "accepts"),
        ("200 OK", "bad_verification_code", "ok", "accepts"),  # GitHub
    ],
)
async def test_what_a_provider_answers_to_a_code_that_does_not_exist(
    place: Place, simulator: Simulator, *, status: str, code: str, verdict: str, word: str
) -> None:
    port = free_port()
    configure(place, *slack(simulator, token_url=f"http://127.0.0.1:{port}/token"))
    (place.data / "config.toml").chmod(0o600)
    async with answering(port, status, {"ok": False, "error": code}):
        found = await examine(place, fails=verdict == "problem")
    assert found["slack.client"]["verdict"] == verdict
    assert word in found["slack.client"]["sentence"] + (found["slack.client"]["fix"] or "")


async def test_a_key_from_the_environment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(place, "[keys]", 'source = "environment"')
    assert_problem(await examine(place, fails=True), "key", "TOKEN_VAULT_KEY")
    monkeypatch.setenv("TOKEN_VAULT_KEY", (place.data / "master.key").read_text().strip())
    assert (await examine(place))["key"]["sentence"] == "from environment"


async def test_a_vault_that_never_ran_is_no_mistake(tmp_path: Path) -> None:
    found = await examine(Place(tmp_path / "new", free_port()))
    assert (found["data"]["verdict"], found["key"]["verdict"]) == ("note", "note")


async def test_a_provider_without_a_client_id_is_no_mistake(place: Place) -> None:
    configure(place, "[providers.slack]", 'scopes = ["chat:write"]')
    found = await examine(place)
    assert found["slack.client"]["verdict"] == "note"
    assert "providers setup slack" in found["slack.client"]["fix"]


async def test_https_where_the_provider_demands_it(place: Place, simulator: Simulator) -> None:
    def at(host: str) -> list[str]:
        return [line.replace(simulator.url, host) for line in slack(simulator)]

    live = at("https://slack.invalid")  # a name that never resolves (RFC 6761): nothing can be sent
    configure(place, *live)
    (place.data / "config.toml").chmod(0o600)
    assert_problem(await examine(place, fails=True), "slack.https", "https redirect", "server.public_url")
    configure(place, *[line for line in live if not line.startswith("client_secret")])
    assert "slack.https" not in await examine(place, fails=True)  # an app with PKCE may come back to loopback
    configure(place, *slack(simulator))
    assert "slack.https" not in await examine(place)


async def test_an_app_without_a_secret_is_known_by_its_id(place: Place, simulator: Simulator) -> None:
    public = slack(simulator, client_id=PUBLIC_CLIENT_ID)
    configure(place, *[line for line in public if not line.startswith("client_secret")])
    found = await examine(place)
    assert found["slack.client"]["verdict"] == "ok"
    assert "secret" not in found["slack.client"]["sentence"]


async def test_scopes_that_the_operator_did_not_enable(place: Place, simulator: Simulator) -> None:
    configure(place, *slack(simulator, scopes=["channels:read", "channels:history"]))
    (place.data / "config.toml").chmod(0o600)
    assert_problem(
        await examine(place, fails=True), "slack.scopes", "slack_post", "chat:write", "providers.slack.scopes"
    )
    configure(place, *slack(simulator, scopes=["channels:read", "channels:history", "chat:write"]))
    narrowed = (await examine(place))["slack.scopes"]  # further tools only: an operator may well do without them
    assert (narrowed["verdict"], "slack_post" in narrowed["sentence"]) == ("note", False)
    configure(place, *slack(simulator))
    assert "slack.scopes" not in await examine(place)


async def test_scopes_that_an_account_did_not_get(tmp_path: Path) -> None:
    async with room(tmp_path / "data") as healthy:
        place = Place(tmp_path / "data", urlsplit(healthy.url).port or 0)
        place.configure({"providers": healthy.simulator.settings()})
        (place.data / "config.toml").chmod(0o600)
        agent = await healthy.agent()
        await healthy.connect(agent, "slack", scopes=frozenset({"channels:read"}))
        found = await examine(place)
        assert found["slack.scopes"]["verdict"] == "note"
        assert "chat:write" in found["slack.scopes"]["sentence"]
        assert " others have" not in found["slack.scopes"]["sentence"]
        for number in range(3):  # one finding says it of all who lack the same, however many there are
            await insert_connection(healthy, f"account-{number}", scopes="channels:read")
        await insert_connection(healthy, "full", scopes="channels:history channels:read chat:write users:read")
        assert " and 3 others have not granted " in (await examine(place))["slack.scopes"]["sentence"]


async def insert_connection(room: Room, account: str, *, scopes: str) -> None:
    async with room.vault.deployment.transaction() as transaction:
        await transaction.execute(
            "insert into connections (tenant, id, user_id, provider, account, label, scopes, state, generation, "
            "metadata, created_at) values ('default', :id, 'u', 'slack', :id, :id, :scopes, 'active', 1, '{}', 1)",
            {"id": account, "scopes": scopes},
        )


async def test_a_provider_file_that_is_wrong(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "providers"
    folder.mkdir()
    (folder / "bad.toml").write_text('name = "bad"\n')
    (place.data / "config.toml").write_text(f'provider_folders = ["{folder}"]\n[server]\nport = {place.port}\n')
    assert_problem(await examine(place, fails=True), "providers", "bad.toml", "providers check")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("create_users = true", ("everyone with an account at https://id.example", "token-vault users link")),
        ("", ("only linked users", "isn't set")),
        ("create_users = false", None),
    ],
)
async def test_whom_a_provider_of_sign_in_lets_in(place: Place, said: str, words: tuple[str, ...] | None) -> None:
    configure(place, "[sign_in.openid.company]", 'issuer = "https://id.example"', 'client_id = "vault"', said)
    found = await examine(place)
    if words is None:
        assert "sign_in" not in found
        return
    assert found["sign_in"]["verdict"] == "note"
    for word in words:
        assert word in found["sign_in"]["sentence"] + found["sign_in"]["fix"]
