"""Names that strangers choose are looked up separately, and count until their thread returns."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import httpx2
import pytest

from providers.outbound.addresses import PUBLIC_ONLY
from providers.outbound.client import Outbound
from providers.outbound.lookups import ON_BEHALF_OF, BoundedLookup
from providers.outbound.messages import NotReached
from server.app import open_deployment
from server.oauth.clients.keys import keys_of
from server.settings import load_settings
from server.signatures import key_sets
from server.signatures.key_sets import keys_behind
from tests.support.harness import running_vault
from tests.support.processes import ROOT
from vault import clients

METADATA = {"redirect_uris": ["http://127.0.0.1:33418/callback"], "token_endpoint_auth_method": "private_key_jwt"}


class Stuck:
    """A resolver that answers only when told to."""

    def __init__(self) -> None:
        self.may = threading.Event()

    def __call__(self, host: str, port: int) -> Sequence[str]:
        assert self.may.wait(30)
        if host.startswith("nowhere"):
            raise OSError("no such name")
        return ["192.0.2.1"]


async def wait_until_empty(lookup: BoundedLookup) -> None:
    async with asyncio.timeout(30):
        while len(lookup):
            await asyncio.sleep(0.01)


async def test_a_look_up_counts_until_its_thread_returns_whoever_has_given_up() -> None:
    stuck = Stuck()
    lookup = BoundedLookup(stuck, threads=2)
    for name in ("a.example", "b.example"):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(lookup(name, 443), 0.05)
    assert len(lookup) == 2
    with pytest.raises(OSError, match="too many"):
        await lookup("c.example", 443)
    stuck.may.set()
    await wait_until_empty(lookup)
    assert await lookup("c.example", 443) == ["192.0.2.1"]
    with pytest.raises(OSError, match="no such name"):
        await lookup("nowhere.example", 443)
    assert len(lookup) == 0


async def test_one_name_has_a_share_of_the_threads_and_one_stranger_with_many_names_as_well() -> None:
    stuck = Stuck()
    own, foreign = BoundedLookup(stuck, threads=4, share=2), BoundedLookup(stuck, threads=4, share=2, by_caller=True)
    asked: list[asyncio.Task[Sequence[str]]] = []
    for number in range(2):
        asked.append(asyncio.create_task(own("same.example", 443)))
        ON_BEHALF_OF.set("198.51.100.1")
        asked.append(asyncio.create_task(foreign(f"n{number}.example", 443)))
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="too many"):
        await own("same.example", 443)
    with pytest.raises(OSError, match="too many"):
        await foreign("another.example", 443)
    asked.append(asyncio.create_task(own("another.example", 443)))
    ON_BEHALF_OF.set("198.51.100.2")
    asked.append(asyncio.create_task(foreign("another.example", 443)))
    await asyncio.sleep(0)
    stuck.may.set()
    assert await asyncio.gather(*asked) == [["192.0.2.1"]] * 6


async def test_the_real_resolver_answers() -> None:
    assert set(await BoundedLookup()("localhost", 80)) <= {"127.0.0.1", "::1"}
    async with Outbound() as outbound:
        with pytest.raises(NotReached):
            await outbound.fetch_document(
                "https://a.invalid/", policy=PUBLIC_ONLY, on_behalf_of="192.0.2.1", timeout=1.0
            )


async def test_keys_that_many_ask_for_at_once_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_sets, "_FETCH_TIME", 0.5)  # what a stranger's address without keys takes
    asked: list[str] = []

    async def lookup(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        await asyncio.sleep(0.05)
        raise OSError("no such name")

    async with running_vault(tmp_path) as vault, Outbound(lookup=lookup) as outbound:
        object.__setattr__(vault.deployment, "http", outbound)
        for whose in ("192.0.2.1", None):
            found = await asyncio.gather(
                *(
                    keys_behind(
                        vault.deployment.http,
                        "https://keys.example/",
                        kid=None,
                        policy=PUBLIC_ONLY,
                        on_behalf_of=whose,
                        now=vault.deployment.now(),
                    )
                    for _ in range(20)
                )
            )
            assert found == [()] * 20
    assert asked == ["keys.example"] * 2  # once for strangers, once for the operator: neither uses the other's lookup


async def test_an_allow_list_holds_for_the_hosts_of_keys(tmp_path: Path) -> None:
    listed = {"registration": {"mode": "allow_list", "allowed_hosts": ["keys.example"]}}
    async with (
        running_vault(tmp_path, overrides=listed) as vault,
        httpx2.AsyncClient(base_url=vault.url, timeout=30) as http,
    ):
        refused = await http.post("/register", json=METADATA | {"jwks_uri": "https://other.example/jwks"})
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_client_metadata")
        taken = await http.post("/register", json=METADATA | {"jwks_uri": "https://keys.example/jwks"})
        assert taken.status_code == 201, taken.text


async def test_keys_of_a_client_from_before_the_allow_list_are_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_sets, "_FETCH_TIME", 0.5)  # what a stranger's address without keys takes
    asked: list[str] = []

    async def lookup(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        raise OSError("no such name")

    made: dict[str, str] = {}
    async with running_vault(tmp_path) as vault, httpx2.AsyncClient(base_url=vault.url, timeout=30) as http:
        for host in ("other.example", "keys.example"):
            answer = await http.post("/register", json=METADATA | {"jwks_uri": f"https://{host}/jwks"})
            made[host] = answer.json()["client_id"]
    listed = {"registration": {"mode": "allow_list", "allowed_hosts": ["keys.example"]}}
    settings = load_settings(overrides=listed)
    async with open_deployment(settings, data=tmp_path) as deployment, Outbound(lookup=lookup) as outbound:
        object.__setattr__(deployment, "http", outbound)
        for client_id in made.values():
            client = await clients.get_client(deployment.database, client_id)
            assert client is not None
            await keys_of(deployment, client, kid=None, address="192.0.2.1", now=deployment.now())
    assert asked == ["keys.example"]


async def run(*arguments: str) -> tuple[int, str, str]:
    isolated = ("unshare", "--user", "--map-root-user", "--net", "--mount")
    process = await asyncio.create_subprocess_exec(
        *isolated, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT
    )
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="needs namespaces of Linux")
async def test_a_name_server_that_never_answers_strangers_keeps_no_provider_waiting(tmp_path: Path) -> None:
    """The vault, a UDP name server that answers only for providers, and 60 clients with as many addresses."""
    if (await run("true"))[0]:
        pytest.skip("this machine lets nobody make a network namespace")
    (tmp_path / "data").mkdir()
    code, out, err = await run(sys.executable, "-m", "tests.support.network.silent_names", str(tmp_path))
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    assert found["unanswered"] >= 20, "nobody had a name looked up"
    assert found["reached"] == 8
    assert found["seconds"] < 2.5, "providers were reached at the end of their patience only"
    assert found["strangers"] == [401]
