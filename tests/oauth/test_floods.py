"""What strangers can leave in the database: little, and not for long; each limit with a twin that stays below it."""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path

import httpx2
import pytest
from joserfc.jwk import ECKey

from server.lifecycle.periodic_steps import SHED, sweep
from server.runtime.rate_limits import Budgets
from tests.oauth.rfcs.test_rfc9449 import KEY, proof
from tests.support.harness import RunningVault, running_vault
from tests.support.rooms.oauth_world import REDIRECT, World, error_of, vault_with
from vault.storage.database import integer

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT = "urn:ietf:params:oauth:token-type:jwt"
REQUEST = {
    "response_type": "code",
    "redirect_uri": REDIRECT,
    "scope": "tools",
    "code_challenge": "A" * 43,
    "code_challenge_method": "S256",
}


async def rows(vault: RunningVault, table: str) -> int:
    found = await vault.deployment.database.fetch_one(f"select count(*) as n from {table}")
    assert found is not None
    return integer(found, "n")


async def shed_load(vault: RunningVault) -> None:
    """Does what the upkeep does every two minutes."""
    for step in SHED:
        await step.work(vault.deployment)


async def confidential(vault: RunningVault, **metadata: object) -> tuple[str, str]:
    made = await vault.register(redirect_uris=[REDIRECT], token_endpoint_auth_method="client_secret_basic", **metadata)
    return str(made["client_id"]), str(made["client_secret"])


async def test_requests_that_a_self_registered_client_pushes_are_bounded_whatever_its_secret(tmp_path: Path) -> None:
    async with vault_with(tmp_path / "data", sign_in={"waiting_requests_per_address": 3}) as (vault, http):
        client = await confidential(vault)
        found = [(await http.post("/par", data=REQUEST, auth=client)).status_code for _ in range(5)]
        assert found == [201, 201, 201, 429, 429]
        assert await rows(vault, "tickets") == 3


async def test_what_is_pushed_and_means_nothing_is_not_kept(tmp_path: Path) -> None:
    async with running_vault(tmp_path) as vault, httpx2.AsyncClient(base_url=vault.url, timeout=30) as http:
        client = await confidential(vault)
        padded = REQUEST | {"padding": "x" * 20_000, "client_secret_hint": "x"}
        assert (await http.post("/par", data=padded, auth=client)).status_code == 201
        row = await vault.deployment.database.fetch_one("select length(payload) as n from tickets")
        assert row is not None and integer(row, "n") < 1000
        state = "s" * 4096
        assert (await http.post("/par", data=REQUEST | {"state": state}, auth=client)).status_code == 201
        known = REQUEST | {"state": state, "client_id": client[0], "nonce": "", "scope": ""}
        left = 8192 - sum(map(len, known.values()))
        for more, status in ((0, 201), (1, 400)):
            long = {"state": state, "nonce": "n" * (left % 6 + more), "scope": "tools " * (left // 6)}
            sent = await http.post("/par", data=REQUEST | long, auth=client)
            assert sent.status_code == status, sent.text
        assert error_of(sent) == "invalid_request"


@pytest.mark.parametrize("wrong", ["x", "x" * 44, "é" * 43, "=" * 43])
async def test_a_thumbprint_that_is_none_is_not_kept(tmp_path: Path, wrong: str) -> None:
    async with running_vault(tmp_path) as vault, httpx2.AsyncClient(base_url=vault.url, timeout=30) as http:
        client = await confidential(vault)
        refused = await http.post("/par", data=REQUEST | {"dpop_jkt": wrong}, auth=client)
        assert (refused.status_code, error_of(refused)) == (400, "invalid_request")
        assert (await http.post("/par", data=REQUEST | {"dpop_jkt": "x" * 43}, auth=client)).status_code == 201


async def test_all_addresses_together_have_a_bound_and_one_at_its_limit_uses_up_nothing_of_it(tmp_path: Path) -> None:
    settings = {"server": {"trusted_proxies": ["127.0.0.1"]}, "sign_in": {"waiting_requests_per_address": 3}}
    async with vault_with(tmp_path / "data", **settings) as (vault, http):
        client = await confidential(vault)

        async def push(address: str) -> int:
            headers = {"X-Forwarded-For": address}
            return (await http.post("/par", data=REQUEST, auth=client, headers=headers)).status_code

        assert [await push("192.0.2.1") for _ in range(30)] == [201] * 3 + [429] * 27
        flood = [await push(f"2001:db8:{number}::1") for number in range(60)]
        assert flood == [201] * 57 + [429] * 3


async def test_tickets_counters_and_single_use_values_of_strangers_are_gone_within_minutes(tmp_path: Path) -> None:
    async with vault_with(tmp_path / "data") as (vault, http):
        client = await confidential(vault)
        world = World(vault, vault.person(), http)
        for _ in range(3):
            headers = {"DPoP": proof(world, "POST", "/par", key=KEY)}
            assert (await http.post("/par", data=REQUEST, auth=client, headers=headers)).status_code == 201
        url = world.authorize_url(client[0], "A" * 43)
        assert (await http.get(url)).status_code == 303
        assert (await rows(vault, "tickets"), await rows(vault, "seen")) == (4, 3)
        await shed_load(vault)
        assert (await rows(vault, "tickets"), await rows(vault, "seen")) == (4, 3)  # these still matter
        vault.deployment.database.clock_offset += 960
        await shed_load(vault)
        assert (await rows(vault, "tickets"), await rows(vault, "seen")) == (0, 0)
        vault.deployment.database.clock_offset += 7200
        await shed_load(vault)
        assert await rows(vault, "limits") == 0


async def test_a_registration_is_rewritten_so_often_and_no_oftener(tmp_path: Path) -> None:
    async with vault_with(tmp_path / "data") as (vault, http):
        made, other = await vault.register(), await vault.register()

        async def rewrite(client: dict[str, object], name: str) -> int:
            headers = {"Authorization": f"Bearer {client['registration_access_token']}"}
            body = {"redirect_uris": [REDIRECT], "client_name": name, "token_endpoint_auth_method": "none"}
            return (await http.put(f"/register/{client['client_id']}", json=body, headers=headers)).status_code

        before = await rows(vault, "events")
        found = [await rewrite(made, f"name {number}") for number in range(23)]
        assert found == [200] * 20 + [429] * 3
        assert await rows(vault, "events") == before + 20
        assert await rewrite(other, "another") == 200


async def test_rewrites_count_as_registrations_of_their_address(tmp_path: Path) -> None:
    few = {"registration": {"per_address_hourly": 4, "total_hourly": 100}}
    async with vault_with(tmp_path / "data", **few) as (vault, http):
        made = await vault.register()
        headers = {"Authorization": f"Bearer {made['registration_access_token']}"}
        body = {"redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"}
        found = [
            (await http.put(f"/register/{made['client_id']}", json=body, headers=headers)).status_code for _ in range(5)
        ]
        assert found == [200] * 3 + [429] * 2


async def test_what_a_client_says_of_itself_is_short_and_its_event_shorter(tmp_path: Path) -> None:
    async with running_vault(tmp_path) as vault, httpx2.AsyncClient(base_url=vault.url, timeout=30) as http:
        long = [f"https://agent.example/{number}/{'x' * 350}" for number in range(20)]
        body = {"redirect_uris": long, "token_endpoint_auth_method": "none"}
        taken = await http.post("/register", json=body)
        assert taken.status_code == 201, taken.text
        row = await vault.deployment.database.fetch_one("select max(length(details)) as n from events")
        assert row is not None and integer(row, "n") < 1600
        keys = {"keys": [ECKey.generate_key("P-256").as_dict(private=False, x5t="x" * 2500) for _ in range(15)]}
        refused = await http.post("/register", json=body | {"jwks": keys})
        assert (refused.status_code, error_of(refused)) == (400, "invalid_client_metadata")


async def test_a_callback_of_a_sign_in_that_never_was_leaves_nothing(tmp_path: Path) -> None:
    known = {
        "issuer": "https://provider.example",
        "client_id": "us",
        "client_secret": "secret",
        "create_users": False,
    }
    async with vault_with(tmp_path / "data", sign_in={"openid": {"known": known}}) as (vault, http):
        before = [await rows(vault, one) for one in ("events", "limits", "tickets")]
        found = [
            (await http.get(f"/sign-in/openid/{name}/callback?state={secrets.token_urlsafe()}&code=x")).status_code
            for name in ("nobody", "known") * 4
        ]
        assert found == [403] * 8
        assert [await rows(vault, one) for one in ("events", "limits", "tickets")] == before


async def test_a_stranger_that_plays_the_worker_leaves_no_event(tmp_path: Path) -> None:
    async with vault_with(tmp_path / "data") as (vault, http):
        client = await confidential(vault, grant_types=["authorization_code", EXCHANGE])
        world = World(vault, vault.person(), http)
        token = proof(world, "POST", "/token", key=KEY, iss=client[0], sub="alice")
        form = {
            "grant_type": EXCHANGE,
            "subject_token": token,
            "subject_token_type": JWT,
            "scope": "chat:write",
            "resource": "https://slack.com/api",
        }
        before = await rows(vault, "events")
        refused = await http.post("/token", data=form, auth=client)
        assert refused.status_code == 400
        assert "worker" in refused.json()["error_description"]
        assert await rows(vault, "events") == before


async def test_proofs_and_assertions_of_strangers_are_bounded_by_address(tmp_path: Path) -> None:
    async with vault_with(tmp_path / "data") as (vault, http):
        object.__setattr__(vault.deployment, "rows", Budgets(3))
        client = await confidential(vault)
        world = World(vault, vault.person(), http)
        form = {"grant_type": "refresh_token", "refresh_token": "x"}

        async def prove() -> httpx2.Response:
            headers = {"DPoP": proof(world, "POST", "/token", key=KEY)}
            return await http.post("/token", data=form, auth=client, headers=headers)

        assert [(await prove()).status_code for _ in range(3)] == [400] * 3
        refused = await prove()
        assert (refused.status_code, error_of(refused)) == (429, "temporarily_unavailable")
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        assert await rows(vault, "seen") == 3


async def test_never_used_clients_of_documents_are_forgotten_as_registered_ones(tmp_path: Path) -> None:
    async with vault_with(tmp_path / "data", registration={"unused_lifetime": 600}) as (vault, _):
        async with vault.deployment.transaction() as transaction:
            await transaction.execute(
                "insert into clients (tenant, id, kind, name, auth_method, redirect_uris, grant_types, resources,"
                " metadata, created_at) values ('default', 'https://a.example/1', 'metadata', 'A', 'none', :uris,"
                " 'authorization_code', '[]', '{}', :now)",
                {"uris": json.dumps([REDIRECT]), "now": vault.deployment.now()},
            )
        await sweep(vault.deployment)
        before = await rows(vault, "clients")
        vault.deployment.database.clock_offset += 700
        await sweep(vault.deployment)
        assert await rows(vault, "clients") == before - 1


async def test_a_hundred_strangers_at_once_stay_within_the_bound_of_their_address(tmp_path: Path) -> None:
    async with vault_with(tmp_path / "data", sign_in={"waiting_requests_per_address": 10}) as (vault, http):
        client = await confidential(vault)
        answers = await asyncio.gather(*(http.post("/par", data=REQUEST, auth=client) for _ in range(60)))
        assert sorted(answer.status_code for answer in answers) == [201] * 10 + [429] * 50
        assert await rows(vault, "tickets") == 10
