"""A client certificate that a person enters: presented to its service in the TLS handshake, and to no one else."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from providers.outbound import sessions
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import NotReached, Outbound
from providers.outbound.messages import ClientIdentity, HttpError, OutboundRequest
from tests.support.certificates import ClientCertificate, issue
from tests.support.doubles.scripted_server import ScriptedServer, json_reply, scripted_server
from tests.support.doubles.secret_services import BAO_TOKEN, openbao
from tests.support.network.tls import Authority, make_authority
from tests.support.rooms.key_room import READ, KeyRoom, running_key_room
from tests.support.rooms.portal_room import accounts_of
from vault.upkeep import expiries

DAY = 86400
FILE = """
name = "bank"
title = "Bank"
[credential]
title = "Certificate"
[credential.fields.bundle]
title = "Certificate and private key"
lines = true
[credential.fields.passphrase]
title = "Passphrase"
optional = true
pattern = '.+'
[credential.send.certificate]
file = "bundle"
passphrase = "passphrase"
[identity]
api = "main"
path = "/me"
id = "{id}"
label = "{name}"
[apis]
main = "https://bank.example/v1"
[scopes]
read = { title = "See balances" }
[scope]
default = ["read"]
[overrides]
parameters = []
sources = ["docs"]
[sources]
docs = { name = "bank.example/docs", date = 2026-11-27 }
[console]
url = "https://bank.example/certificates"
[[rules]]
api = "main"
method = "GET"
path = "/{+}"
scopes = ["read"]
"""


@dataclass
class Bank:
    """The vault, a service that demands a certificate, and one that doesn't."""

    keys: KeyRoom
    server: ScriptedServer
    authority: Authority
    customer: ClientCertificate
    ending: ClientCertificate
    elsewhere: dict[str, str]  # kept in OpenBao


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bank(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Bank]:
    data = tmp_path_factory.mktemp("bank")
    authority = make_authority(tmp_path_factory.mktemp("authority"), "localhost")
    customer, ending = issue(), issue(days=5)
    demanding = authority.server()
    demanding.verify_mode = ssl.CERT_REQUIRED
    demanding.load_verify_locations(cadata=customer.pem + ending.pem)
    secrets = {"people/key": {"bundle": "", "passphrase": "open sesame"}}
    async with (
        scripted_server(openbao(secrets)) as bao,
        scripted_server(lambda _: json_reply({"id": "acme", "name": "Acme"}), tls=demanding) as server,
    ):
        (data / "providers").mkdir()
        (data / "providers" / "bank.toml").write_text(FILE, encoding="utf-8")
        at = f"https://localhost:{server.port}/v1"
        more = {"bank": {"apis": {"main": at}, "ca_file": str(authority.authority)}}
        entered = {"entered": ["bao://secret/people/"], "openbao_url": bao.url, "openbao_token": BAO_TOKEN}
        async with running_key_room(data, more=more, overrides={"secrets": {"cache": 0, **entered}}) as opened:
            yield Bank(opened, server, authority, customer, ending, secrets["people/key"])


async def test_a_certificate_is_shown_to_its_service_at_each_call(bank: Bank) -> None:
    user = await bank.keys.user()
    person = await bank.keys.signed_in(user)
    bundle = bank.customer.private() + bank.customer.pem
    connection = await bank.keys.connect_account(user, person, "bank", bundle=bundle)
    assert (connection.account, connection.label) == ("acme", "Acme")
    handle = await bank.keys.allow_agent(user, connection, READ)
    assert (await handle.call("GET", "/balances", api="main")).json() == {"id": "acme", "name": "Acme"}
    pem = bundle.encode()
    async with Outbound(AddressPolicy(allow_loopback=True, ca_file=str(bank.authority.authority))) as http:
        request = OutboundRequest("GET", f"https://localhost:{bank.server.port}/v1/me")
        with pytest.raises(HttpError):
            await http.send(request)
        shown = OutboundRequest("GET", request.url, identity=ClientIdentity(pem))
        assert (await http.send(shown)).status == 200
        with pytest.raises(HttpError):  # no pooled connection is reused
            await http.send(request)


@pytest.mark.parametrize("is_sealed", [True, False])
async def test_a_certificate_that_is_kept_elsewhere_is_read_for_each_call(bank: Bank, *, is_sealed: bool) -> None:
    user = await bank.keys.user()
    bank.elsewhere["bundle"] = bank.customer.private(b"open sesame" if is_sealed else None) + bank.customer.pem
    values = {"bundle": "bao://secret/people/key#bundle"}
    if is_sealed:
        values["passphrase"] = "bao://secret/people/key#passphrase"
    connection = await bank.keys.connect_account(user, await bank.keys.signed_in(user), "bank", **values)
    handle = await bank.keys.allow_agent(user, connection, READ)
    assert (await handle.call("GET", "/balances", api="main")).status_code == 200
    bank.elsewhere["bundle"] = bank.customer.pem  # without its private key
    assert (await handle.call("GET", "/balances", api="main")).status_code == 503


@pytest.mark.parametrize(
    ("form", "passphrase", "said"),
    [
        ("pem", "", ""),
        ("sealed", "open sesame", ""),
        ("sealed", "open barley", "private key that works here"),
        ("pkcs12", "open sesame", ""),
        ("pkcs12", "open barley", "private key that works here"),
        ("of two", "", "private key that works here"),
        ("certificate", "", "private key that works here"),
        ("ended", "", "valid anymore"),
        ("early", "", "valid yet"),
        ("unknown", "", "confirm that this works"),
    ],
)
async def test_only_a_whole_certificate_that_the_service_knows_connects(
    bank: Bank, form: str, passphrase: str, said: str
) -> None:
    user = await bank.keys.user()
    person = await bank.keys.signed_in(user)
    customer, other, old, early = bank.customer, issue(), issue(days=-2), issue(after_days=2)
    bundles = {
        "pem": customer.pem + customer.private(),
        "sealed": customer.pem + customer.private(b"open sesame"),
        "pkcs12": customer.pkcs12(b"open sesame"),
        "of two": customer.pem + other.private(),
        "certificate": customer.pem,
        "ended": old.pem + old.private(),
        "early": early.pem + early.private(),
        "unknown": other.pem + other.private(),
    }
    page = await bank.keys.form(person, "bank")
    answer = await bank.keys.enter(person, page, bundle=bundles[form], passphrase=passphrase)
    assert said in answer.text
    assert len(await accounts_of(bank.keys, user)) == int(not said), answer.text


async def test_the_end_of_a_certificate_is_the_connection_s_and_announced(bank: Bank) -> None:
    user = await bank.keys.user()
    person = await bank.keys.signed_in(user)
    now = bank.keys.deployment.now()
    connection = await bank.keys.connect_account(user, person, "bank", bundle=bank.ending.pem + bank.ending.private())
    assert connection.ends_at is not None
    assert now + 4 * DAY < connection.ends_at < now + 6 * DAY
    assert await expiries.announce(bank.keys.deployment.database) >= 1
    assert await expiries.announce(bank.keys.deployment.database) == 0


@pytest.mark.parametrize("newer", ["valid", "ended", "early"])
async def test_a_certificate_that_is_kept_elsewhere_can_be_replaced_there_before_it_ends(
    bank: Bank, caplog: pytest.LogCaptureFixture, newer: str
) -> None:
    user, reference = await bank.keys.user(), "bao://secret/people/key#bundle"
    bank.elsewhere["bundle"] = bank.ending.private() + bank.ending.pem
    connection = await bank.keys.connect_account(user, await bank.keys.signed_in(user), "bank", bundle=reference)
    assert connection.ends_at is None
    handle = await bank.keys.allow_agent(user, connection, READ)
    made = {"valid": bank.customer, "ended": issue(days=-2), "early": issue(after_days=2)}[newer]
    bank.elsewhere["bundle"] = made.private() + made.pem
    answer = await handle.call("GET", "/balances", api="main")
    said = any("isn't valid now" in getattr(one, "detail", "") for one in caplog.records)
    assert (answer.status_code, said) == ((200, False) if newer == "valid" else (503, True))


async def test_a_certificate_goes_through_tls_only(bank: Bank) -> None:
    identity = ClientIdentity((bank.customer.pem + bank.customer.private()).encode())
    async with (
        scripted_server(lambda _: json_reply({})) as plain,
        Outbound(AddressPolicy(allow_loopback=True)) as http,
    ):
        with pytest.raises(NotReached):
            await http.send(OutboundRequest("GET", plain.url, identity=identity))
        assert (await http.send(OutboundRequest("GET", plain.url))).status == 200
        assert len(plain.arrivals) == 1


async def test_calls_one_after_the_other_share_what_shows_the_certificate(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_SHOWN", 0.05)
    shown, ca_file = sessions._ShownCertificates(), str(bank.authority.authority)
    first, other = [ClientIdentity((one.pem + one.private()).encode()) for one in (bank.customer, bank.ending)]
    made = shown.context(ca_file, first)
    assert shown.context(ca_file, first) is made
    assert shown.context(ca_file, other) is not made
    assert shown.context(None, first) is not made, "other authorities are trusted"
    async with asyncio.timeout(30):
        while shown._made:
            await asyncio.sleep(0.01)


async def test_a_certificate_is_shown_to_no_proxy_with_tls_but_past_one(bank: Bank) -> None:
    identity = ClientIdentity((bank.customer.pem + bank.customer.private()).encode())
    policy = AddressPolicy(allow_loopback=True, ca_file=str(bank.authority.authority))
    async with Outbound(policy, proxy="https://127.0.0.1:1") as http:
        url = f"https://localhost:{bank.server.port}/v1/me"
        assert (await http.send(OutboundRequest("GET", url, identity=identity))).status == 200
        with pytest.raises(NotReached, match="no TLS connection to show a certificate in"):
            await http.send(OutboundRequest("GET", "https://93.184.215.14/", identity=identity))


@pytest.mark.parametrize("has_memory_files", [True, False])
async def test_no_file_is_left_of_a_key(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_memory_files: bool
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if not has_memory_files:  # as on macOS
        monkeypatch.delattr("os.memfd_create", raising=False)
    identity = ClientIdentity((bank.customer.pem + bank.customer.private()).encode())
    assert "PRIVATE" not in repr(identity)
    policy = AddressPolicy(allow_loopback=True, ca_file=str(bank.authority.authority))
    async with Outbound(policy) as http:
        url = f"https://localhost:{bank.server.port}/v1/me"
        assert (await http.send(OutboundRequest("GET", url, identity=identity))).status == 200
    assert list(tmp_path.iterdir()) == []
