"""`token-vault doctor` finds each seeded mistake and its fix, and finds nothing once that mistake is undone."""

from __future__ import annotations

import asyncio
import json
import shlex
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from providers.simulator.local_server import Simulator
from server.cli import app
from server.doctor.files import check_files
from server.settings import load_settings
from tests.conftest import PostgresCluster, Store
from tests.support.doctor_places import Found, assert_problem, configure, examine, serve_vault, slack, stranger_on_port
from tests.support.harness import free_socket
from tests.support.network.poolers import pgbouncer
from tests.support.network.tls import make_authority, tls_proxy
from tests.support.private import private_mounts
from tests.support.processes import Place, free_port
from tests.support.rooms.mcp_room import room


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
        "can't read",
        "make the file readable",
        "correct providers.slack.client_secret_file",
    )
    secret.write_text("")
    secret.chmod(0o600)
    empty = (await examine(place, fails=True))["settings"]
    assert "is empty" in empty["sentence"]
    assert empty["fix"].startswith("correct providers.slack.client_secret_file;")


async def test_a_settings_file_with_a_secret_that_others_can_read(place: Place, simulator: Simulator) -> None:
    configure(place, *slack(simulator))
    config = place.data / "config.toml"
    config.chmod(0o644)
    assert_problem(await examine(place, fails=True), "secrets", f"chmod 600 {config}")
    config.chmod(0o600)
    assert "secrets" not in await examine(place)


@pytest.mark.parametrize(
    "lines",
    [
        ("[mail]", 'host = "mail.example"', 'sender = "vault@mail.example"', 'username = "vault"', "{password}"),
        ("[secrets]", "{onepassword_token}"),
        ("[signals.providers.github]", "{secret}"),
        ("[sign_in.openid.work]", 'issuer = "https://id.example"', 'client_id = "x"', "{client_secret}"),
    ],
)
def test_no_secret_of_any_setting_may_be_read_by_others(
    tmp_path: Path, lines: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, secret = lines[-1].strip("{}"), "s" * 43
    file, config = tmp_path / "a-secret", tmp_path / "config.toml"
    file.write_text(secret)

    def fixes(mode: int, how: str) -> list[str]:
        config.write_text("\n".join([*lines[:-1], how]))
        for one in (file, config):
            one.chmod(mode)
        found = check_files(load_settings(config), data=tmp_path, config=config, environment={})
        return [one.fix for one in found if one.check == "secrets"]

    in_file, in_settings = f"{name}_file = {json.dumps(str(file))}", f'{name} = "{secret}"'
    assert fixes(0o644, in_file) == [f"run chmod 600 {file}"]
    assert fixes(0o644, in_settings) == [f"run chmod 600 {config}"]
    assert fixes(0o600, in_file) == fixes(0o600, in_settings) == []
    path = "__".join([*lines[0].strip("[]").split("."), name]).upper()
    monkeypatch.setenv(f"TOKEN_VAULT_{path}", secret)
    assert fixes(0o644, "") == [], "the environment's secret isn't in the file"


def test_an_address_without_a_password_is_no_secret(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    for written, is_secret in (("vault:p@db", True), ("db", False)):
        config.write_text(f'[database]\nurl = "postgresql://{written}/vault"\n')
        config.chmod(0o644)
        found = check_files(load_settings(config), data=tmp_path, config=config, environment={})
        assert ("secrets" in {one.check for one in found}) is is_secret


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
        assert "weren't checked" in found["pooler"]["sentence"]
        for line in ("query_wait_timeout = 5", "server_login_retry = 1", "server_connect_timeout = 2", "SHOW CONFIG"):
            assert line in str(found["pooler"]["fix"])
    async with pgbouncer(postgres_store.url, {"max_prepared_statements": 0}) as url:
        configure(place, "[database]", f'url = "{url}"')
        assert_problem(await examine(place, fails=True), "database", "max_prepared_statements = 200", "database.url")


async def test_a_sqlite_file_system_that_takes_no_writes(place: Place) -> None:
    """Root can write anywhere except on a read-only mount, so one process gets the data directory mounted read-only."""
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
    async with stranger_on_port(place.port, "200 OK", {"status": "ok", "vault": "another"}):
        found = await examine(place, fails=True)
        assert_problem(found, "port", "another program", "server.port")
        assert_problem(found, "public_url", "something other")
    silent = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", place.port)
    async with silent:
        found = await examine(place, fails=True)
        assert_problem(found, "port", "another program", "server.port")
        assert_problem(found, "public_url", "can't be reached", "the port first")
    assert (await examine(place))["port"]["verdict"] == "note"
    async with serve_vault(place):
        found = await examine(place)
        assert (found["port"]["verdict"], found["public_url"]["verdict"]) == ("ok", "ok")


async def test_a_public_url_that_is_not_what_clients_see(place: Place) -> None:
    """The process was started before the URL was changed in the settings."""
    other = f'public_url = "http://127.0.0.1:{place.port}"'
    async with serve_vault(place):
        configure(place, other)
        found = await examine(place, fails=True)
        assert_problem(
            found, "public_url", f"http://localhost:{place.port}", f"http://127.0.0.1:{place.port}", "redirect"
        )
    async with serve_vault(place):
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
    async with serve_vault(place):
        assert_problem(await examine(place, fails=True), "public_url", "can't be reached", "proxy")
        async with stranger_on_port(front, status, {}, *headers):
            assert_problem(await examine(place, fails=True), "public_url", *words)


@pytest.mark.parametrize(
    ("trusted", "host", "words"),
    [
        (True, "localhost", ()),
        (False, "localhost", ("certificate", "doesn't trust its issuer", "SSL_CERT_FILE")),
        (True, "other.example", ("certificate", "isn't valid for localhost", "server.public_url")),
    ],
)
async def test_the_certificate_of_the_public_url(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, trusted: bool, host: str, words: tuple[str, ...]
) -> None:
    authority, front = make_authority(tmp_path, host), free_socket()
    configure(place, f'public_url = "https://localhost:{front.getsockname()[1]}"')
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.authority))
    async with serve_vault(place), tls_proxy(front, authority, backend=place.port):
        found = await examine(place, fails=bool(words))
        assert found["public_url"]["verdict"] == ("problem" if words else "ok"), found
        assert found["port"]["verdict"] == "ok", found  # its only address is the public one
        for word in words:
            assert word in found["public_url"]["sentence"] + found["public_url"]["fix"], found


async def test_an_https_address_that_speaks_no_tls(place: Place) -> None:
    front = free_port()
    configure(place, f'public_url = "https://localhost:{front}"')
    async with serve_vault(place):
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
    async with serve_vault(place) as vault_id:
        known = {"vault": vault_id, "issuer": place.url}
    async with stranger_on_port(place.port, "200 OK", known, "Date: Mon, 01 Jan 2024 00:00:00 GMT"):
        assert_problem(await examine(place, fails=True), "clock", "NTP")
    async with stranger_on_port(place.port, "200 OK", known):
        seen = await examine(place, fails=True)
        assert seen["clock"]["verdict"] == "ok"
        assert_problem(seen, "port", "(uid ")  # repeating the vault's id proves nothing


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


async def test_a_key_from_the_environment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(place, "[keys]", 'source = "environment"')
    assert_problem(await examine(place, fails=True), "key", "TOKEN_VAULT_KEY")
    monkeypatch.setenv("TOKEN_VAULT_KEY", (place.data / "master.key").read_text().strip())
    assert (await examine(place))["key"]["sentence"] == "from environment"


async def test_a_vault_that_never_ran_is_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("TOKEN_VAULT_SERVER__PORT", str(port))  # another test may have a vault on the default port
    found = await examine(Place(tmp_path / "new", port))
    assert (found["data"]["verdict"], found["key"]["verdict"]) == ("note", "note")
