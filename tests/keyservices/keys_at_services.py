"""The master key wrapped by key services: OpenBao, AWS KMS (moto), SoftHSM, and stand-ins for Google's and Azure's.

Run by `make keyservices`.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import httpx2
import pytest

from tests.conftest import KeySettings, Store
from tests.keyservices.standins import AzureStandIn, GoogleStandIn, answering_server
from tests.support.processes import free_port
from tests.support.rooms.vault_room import open_room
from tests.vault.keys.test_key_rotation import add, former, people, promote, retire, upkeep
from vault.keys.key_ring import KeyRing
from vault.keys.sources import KeySource, key_source
from vault.keys.sources.source import StoredKey
from vault.refusals import KeyUnavailable
from vault.upkeep.key_rotation import SETTLED

ROOT = Path(__file__).parents[2]
PACKAGES = next(iter((ROOT / ".venv/keyservices/lib").glob("python*/site-packages")), None)
SOFTHSM = next((path for path in Path("/usr/lib").rglob("libsofthsm2.so")), None)
pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's packages


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    assert PACKAGES is not None, "run make keyservices"
    sys.path.append(str(PACKAGES))  # last, so that the suite's own packages come first
    import google

    google.__path__.append(str(PACKAGES / "google"))


@dataclass
class Service:
    """A running service: settings for its key, another key, and a missing key; and how to stop it."""

    settings: KeySettings
    other: KeySettings
    missing: KeySettings
    stop: Callable[[], None]


@contextmanager
def run_service(
    *arguments: str, until: str, environment: dict[str, str] | None = None
) -> Generator[Callable[[], None]]:
    """Run a process on loopback until the block ends; wait until it answers at the URL `until`."""
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | (environment or {})
    )

    def stop() -> None:
        process.kill()
        process.wait(10)

    try:
        for _ in range(600):
            try:
                httpx2.get(until, timeout=1, trust_env=False)
                break
            except httpx2.TransportError:
                assert process.poll() is None, arguments[0]
                time.sleep(0.05)
        yield stop
    finally:
        stop()


def program(name: str) -> str:
    assert PACKAGES is not None
    return str(PACKAGES.parents[2] / "bin" / name)


@contextmanager
def aws(folder: Path, patch: pytest.MonkeyPatch) -> Generator[Service]:
    import boto3

    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}.items():
        patch.setenv(name, value)
    address = f"http://127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    with run_service(program("moto_server"), "-H", "127.0.0.1", "-p", port, until=address) as stop:
        client = boto3.client("kms", region_name="eu-west-1", endpoint_url=address)
        first, second = (client.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
        settings = KeySettings("aws_kms", key=first, address=address)
        missing = replace(settings, key=first[:-4] + "0000")
        yield Service(settings, replace(settings, key=second), missing, stop)


@contextmanager
def openbao(folder: Path, patch: pytest.MonkeyPatch) -> Generator[Service]:
    import hvac

    address = f"http://127.0.0.1:{free_port()}"
    command = (program("bao"), "server", "-dev", "-dev-root-token-id=root", "-dev-no-store-token")
    listen = f"-dev-listen-address={address.removeprefix('http://')}"
    with run_service(*command, listen, until=f"{address}/v1/sys/health") as stop:
        client = hvac.Client(url=address, token="root")
        client.sys.enable_secrets_engine("transit")
        for name in ("vault", "another"):
            client.secrets.transit.create_key(name)
        client.sys.create_or_update_policy("vault", policy="".join(
            f'path "transit/{operation}/{name}" {{ capabilities = ["update"] }}\n'
            for operation in ("encrypt", "decrypt") for name in ("vault", "another")
        ))  # fmt: skip
        token = folder / "token"
        token.write_text(client.auth.token.create(policies=["vault"])["auth"]["client_token"] + "\n")
        token.chmod(0o600)
        settings = KeySettings("hashicorp_vault", key="vault", address=address, token_file=token)
        yield Service(settings, replace(settings, key="another"), replace(settings, key="transit/none"), stop)


@cache
def softhsm_token() -> None:
    """A token for all tests: the library reads the location of tokens only once per process."""
    folder = Path(tempfile.mkdtemp(prefix="token-vault-softhsm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    init = ["softhsm2-util", "--init-token", "--free", "--label", "vault", "--pin", "1234", "--so-pin", "5678"]
    subprocess.run(init, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def softhsm(folder: Path, patch: pytest.MonkeyPatch) -> Generator[Service]:
    assert SOFTHSM is not None, "apt-get install softhsm2"
    softhsm_token()
    import pkcs11

    mine, another = (secrets.token_hex(4) for _ in range(2))
    token = pkcs11.lib(str(SOFTHSM)).get_token(token_label="vault")
    with token.open(user_pin="1234", rw=True) as session:
        for label in (mine, another):
            session.generate_key(pkcs11.KeyType.AES, 256, label=label, store=True)
    pin = folder / "pin"
    pin.write_text("1234\n")
    pin.chmod(0o600)
    settings = KeySettings("pkcs11", key=mine, module=SOFTHSM, token="vault", pin_file=pin)
    missing = replace(settings, key="none")

    def stop() -> None:
        pin.write_text("9999\n")

    yield Service(settings, replace(settings, key=another), missing, stop)


@contextmanager
def google_kms(folder: Path, patch: pytest.MonkeyPatch) -> Generator[Service]:
    made = GoogleStandIn()
    ring = "projects/p/locations/global/keyRings/r/cryptoKeys"
    with ExitStack() as stack:
        port = stack.enter_context(answering_server(made.answer))
        settings = KeySettings("google_kms", key=made.make(f"{ring}/vault"), address=f"http://127.0.0.1:{port}")
        other = replace(settings, key=made.make(f"{ring}/another"))
        yield Service(settings, other, replace(settings, key=f"{ring}/none"), stack.close)


@contextmanager
def azure(folder: Path, patch: pytest.MonkeyPatch) -> Generator[Service]:
    made = AzureStandIn()
    with ExitStack() as stack:
        port = stack.enter_context(answering_server(made.answer, tls=folder))
        tokens = stack.enter_context(answering_server(made.identity))
        made.address = f"https://vault.localhost:{port}"
        patch.setenv("REQUESTS_CA_BUNDLE", (folder / "authority.path").read_text())
        patch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{tokens}/")
        patch.setenv("IDENTITY_HEADER", "secret")
        look_up = socket.getaddrinfo  # the client insists on a subdomain of the service's name
        patch.setattr(socket, "getaddrinfo", lambda host, *rest: look_up(host.removeprefix("vault."), *rest))
        settings = KeySettings("azure_key_vault", key=made.make("vault"))
        other = replace(settings, key=made.make("another"))
        yield Service(settings, other, replace(settings, key=f"{made.address}/keys/none"), stack.close)


SERVICES = {one.__name__: one for one in (aws, openbao, softhsm, google_kms, azure)}


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Service]:
    with SERVICES[request.param](tmp_path, monkeypatch) as opened:
        yield opened


async def refuses(source: KeySource, stored: StoredKey) -> None:
    try:
        assert await source.open(stored) is None
    except KeyUnavailable as refused:  # if the service's answer is the same as for its own failure
        assert "check keys." in refused.description


async def test_a_service_opens_what_it_wrapped_and_nothing_else(service: Service, tmp_path: Path) -> None:
    source = key_source(service.settings, data=tmp_path)
    made = await source.create(())
    assert made.wrapped is not None
    assert made.key.id.startswith(f"{service.settings.source}-")
    again = key_source(service.settings, data=tmp_path)
    opened = await again.open(made.record)
    assert opened is not None
    assert opened.check == made.key.check
    for broken in (made.wrapped[:-2] + b"AA", made.wrapped[:20], b""):
        await refuses(again, replace(made.record, wrapped=broken))
    other = key_source(service.other, data=tmp_path)
    await refuses(other, made.record)
    assert await other.open((await other.create(())).record)


async def test_a_key_that_is_not_there_is_refused_with_the_fix(service: Service, tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailable, match="check keys") as refused:
        await key_source(service.missing, data=tmp_path).create(())
    assert "\n" not in refused.value.description


async def test_a_vault_moves_to_a_service_and_needs_it_only_to_start(service: Service, sqlite_store: Store) -> None:
    async with open_room(sqlite_store) as room:
        await people(room, 2)
        both = replace(service.settings, also=KeySettings("file"))
        ring = await KeyRing.open(room.database, key_source(both, data=sqlite_store.data))
        moved = replace(room, vault=replace(room.vault, keys=ring))
        old, new = await former(moved), await add(moved)
        await promote(moved, new)
        await upkeep(moved)
        moved.pass_time(SETTLED)
        await retire(moved, old)
        (sqlite_store.data / "master.key").unlink()
        alone = await KeyRing.open(room.database, key_source(service.settings, data=sqlite_store.data))
        with pytest.raises(KeyUnavailable):
            await KeyRing.open(room.database, key_source(service.other, data=sqlite_store.data))
        service.stop()
        started = replace(room, vault=replace(room.vault, keys=alone))
        await people(started, 1, first=2)
        row = await room.database.fetch_one("select user_id from keys.user_keys")
        assert row is not None
        await alone.load_key(room.database, user_id=str(row["user_id"]), connection_id="c0")
        with pytest.raises(KeyUnavailable, match="check keys"):
            await KeyRing.open(room.database, key_source(service.settings, data=sqlite_store.data))


async def test_a_new_version_of_a_key_at_azure_opens_what_the_former_wrapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with azure(tmp_path, monkeypatch) as service:
        source = key_source(service.settings, data=tmp_path)
        made = await source.create(())
        assert made.wrapped is not None
        elsewhere = made.wrapped.replace(b"vault.localhost", b"other.localhost")
        assert await source.open(replace(made.record, wrapped=elsewhere)) is None
        assert await source.open(made.record)
