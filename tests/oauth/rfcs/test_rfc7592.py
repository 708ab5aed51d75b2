"""RFC 7592: a client manages its own registration and no other client's."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from tests.conftest import Store
from tests.support.inspection import until_waiting
from tests.support.network.held_requests import held_json
from tests.support.rooms.oauth_world import REDIRECT, WEB, World, error_of
from vault import clients, grants

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]


def bearer(client: dict[str, object]) -> dict[str, str]:
    return {"Authorization": f"Bearer {client['registration_access_token']}"}


def path(client: dict[str, object]) -> str:
    return f"/register/{client['client_id']}"


async def test_a_client_reads_and_changes_its_registration(world: World) -> None:
    client = await world.register(token_endpoint_auth_method="client_secret_basic")
    assert client["registration_client_uri"] == f"{world.url}{path(client)}"
    found = await world.http.get(path(client), headers=bearer(client))
    assert found.json()["client_name"] == "Test agent"
    changed = found.json() | {"client_name": "Renamed", "redirect_uris": ["https://new.example/cb"]}
    answer = await world.http.put(path(client), headers=bearer(client), json=changed)
    assert answer.status_code == 200
    assert answer.json()["client_name"] == "Renamed"
    assert answer.json()["client_id"] == client["client_id"]
    assert "client_secret" not in answer.json()
    assert (await world.ask(str(client["client_id"]), redirect_uri=REDIRECT)).status_code == 400
    assert (await world.ask(str(client["client_id"]), redirect_uri="https://new.example/cb")).status_code == 303


@pytest.mark.requirement("S-029")
async def test_a_management_token_is_good_for_its_own_client_only(world: World) -> None:
    mine, other = await world.register(), await world.register()
    for method in ("GET", "PUT", "DELETE"):
        body = {"redirect_uris": ["https://evil.example/cb"]} if method == "PUT" else None
        crossed = await world.http.request(method, path(other), headers=bearer(mine), json=body)
        assert (crossed.status_code, error_of(crossed)) == (401, "invalid_token")
        unknown = await world.http.request(method, "/register/nobody", headers=bearer(mine), json=body)
        assert unknown.status_code == 401
        assert {**unknown.json(), "request_id": ""} == {**crossed.json(), "request_id": ""}
    assert (await world.http.get(path(other), headers=bearer(other))).json()["redirect_uris"] == [REDIRECT]


@pytest.mark.requirement("S-029")
async def test_a_management_token_counts_in_the_header_only(world: World) -> None:
    client = await world.register()
    token = str(client["registration_access_token"])
    tries: list[dict[str, object]] = [
        {},
        {"params": {"access_token": token}},
        {"params": {"registration_access_token": token}},
        {"headers": {"Cookie": f"access_token={token}"}},
        {"headers": {"Authorization": f"Basic {token}"}},
        {"headers": {"Authorization": f"DPoP {token}"}},
        {"headers": {"Authorization": f"Bearer {token}x"}},
        {"headers": {"Authorization": f"Bearer {token[:-1]}"}},
        {"headers": {"Authorization": "Bearer"}},
        {"headers": {"X-Authorization": f"Bearer {token}"}},
    ]
    for options in tries:
        assert (await world.http.get(path(client), **options)).status_code == 401  # pyright: ignore[reportArgumentType]
    assert (await world.http.get(path(client), headers=bearer(client))).status_code == 200


async def test_an_update_cannot_choose_id_or_secret(world: World) -> None:
    client = await world.register(token_endpoint_auth_method="client_secret_post")
    for wrong in ({"client_id": "other"}, {"client_secret": "chosen"}, {"client_secret": 5}):
        body = {"redirect_uris": [REDIRECT]} | wrong
        assert (
            error_of(await world.http.put(path(client), headers=bearer(client), json=body)) == "invalid_client_metadata"
        )
    body = {"redirect_uris": [REDIRECT], "client_secret": client["client_secret"], "client_id": client["client_id"]}
    answer = await world.http.put(path(client), headers=bearer(client), json=body)
    assert answer.status_code == 200
    assert answer.json()["token_endpoint_auth_method"] == "client_secret_post"


async def test_a_public_client_that_becomes_confidential_gets_a_secret(world: World) -> None:
    client = await world.register()
    body = {"redirect_uris": [REDIRECT], "token_endpoint_auth_method": "client_secret_post"}
    answer = await world.http.put(path(client), headers=bearer(client), json=body)
    assert len(answer.json()["client_secret"]) >= 43


async def test_a_changed_redirect_list_ends_the_use_of_earlier_consent(world: World) -> None:
    await _change(world, {"redirect_uris": [WEB, "https://more.example/cb"]}, is_asked=True)


@pytest.mark.requirement("S-063")
@pytest.mark.parametrize(
    ("change", "is_asked"),
    [
        ({"client_name": "Your bank"}, True),
        ({"client_uri": "https://bank.example/"}, True),
        ({"token_endpoint_auth_method": "client_secret_post"}, True),
        ({"software_version": "2"}, False),  # the consent page didn't show this
        ({}, False),
    ],
)
async def test_a_client_that_looks_different_after_consent_is_asked_about_again(
    world: World, change: dict[str, object], *, is_asked: bool
) -> None:
    await _change(world, change, is_asked=is_asked)


async def _change(world: World, change: dict[str, object], *, is_asked: bool) -> None:
    """An allowed client changes its registration; checks whether consent is asked again, and then remembered again."""
    client = await world.register(redirect_uris=[WEB])
    client_id = str(client["client_id"])

    async def ask() -> str:
        return (await world.ask(client_id, redirect_uri=WEB)).headers["location"]

    await world.tokens(client_id, redirect_uri=WEB)
    assert "code=" in await ask()  # consent is remembered
    with world.clock_ahead(5):
        same = {"client_name": "Test agent", "redirect_uris": [WEB], "token_endpoint_auth_method": "none"}
        answer = await world.http.put(path(client), headers=bearer(client), json=same | change)
        assert answer.status_code == 200, answer.text
    with world.clock_ahead(10):
        assert (await ask()).startswith("/consent") == is_asked
        if "token_endpoint_auth_method" not in change:  # otherwise it has a secret now
            await world.tokens(client_id, redirect_uri=WEB)
            assert "code=" in await ask()


@pytest.mark.requirement("S-063")
@pytest.mark.parametrize("decision", ["allow", "deny"])
async def test_a_client_that_changes_its_name_while_the_person_looks_is_shown_again(
    world: World, decision: str
) -> None:
    client = await world.register(redirect_uris=[WEB], client_name="Weather")
    client_id = str(client["client_id"])
    page = await world.alice.open(world.authorize_url(client_id, "A" * 43, redirect_uri=WEB))
    assert "Weather" in page.text
    body = {"client_name": "Your bank", "redirect_uris": [WEB], "token_endpoint_auth_method": "none"}
    await world.http.put(path(client), headers=bearer(client), json=body)
    page = await world.alice.submit(page, form="/consent", button=("decision", decision))
    assert (page.status_code, page.url.path) == (200, "/consent")
    assert "Your bank" in page.text
    page = await world.alice.submit(page, form="/consent", button=("decision", decision))
    assert page.headers["location"].startswith(WEB)


@pytest.mark.requirement("S-030")
async def test_deleting_a_registration_kills_its_tokens_and_codes(world: World) -> None:
    client = await world.register()
    client_id = str(client["client_id"])
    issued = await world.tokens(client_id)
    pending = await world.code(client_id)
    page = await world.alice.open(world.authorize_url(client_id, "A" * 43, prompt="consent"))
    assert await world.probe(issued["access_token"]) == 200
    answer = await world.http.delete(path(client), headers=bearer(client))
    assert (answer.status_code, answer.content) == (204, b"")
    assert await world.probe(issued["access_token"]) == 401
    for refused in (
        await world.refresh(client_id, issued["refresh_token"]),
        await world.token(pending.form()),
    ):
        assert (refused.status_code, error_of(refused)) == (401, "invalid_client")
    other = await world.public_client()
    assert error_of(await world.token(pending.form(client_id=other))) == "invalid_grant"
    late = await world.alice.submit(page, form="/consent", button=("decision", "allow"))
    assert late.status_code >= 400
    assert (await world.http.get(path(client), headers=bearer(client))).status_code == 401
    assert (await world.ask(client_id)).status_code == 400


async def test_of_simultaneous_deletions_one_counts(world: World) -> None:
    client = await world.register()
    answers = await asyncio.gather(*(world.http.delete(path(client), headers=bearer(client)) for _ in range(4)))
    assert sorted(one.status_code for one in answers) == [204, 401, 401, 401]


async def test_every_answer_is_json_that_nobody_stores(world: World) -> None:
    client = await world.register()
    answers: list[httpx2.Response] = [
        await world.http.get(path(client), headers=bearer(client)),
        await world.http.post(path(client), headers=bearer(client)),
        await world.http.put(path(client), headers=bearer(client), content=b"{"),
    ]
    assert [answer.status_code for answer in answers] == [200, 405, 400]
    assert all(answer.headers["cache-control"] == "no-store" for answer in answers)


async def set_column(world: World, client: dict[str, object], column: str, value: bytes) -> None:
    async with world.vault.deployment.transaction() as transaction:
        await transaction.execute(
            f"update clients set {column} = :value where id = :id",
            {"value": value, "id": str(client["client_id"])},
        )


@pytest.mark.parametrize(("column", "status"), [("registration_hash", 401), ("secret_hash", 200)])
async def test_an_update_that_arrives_late_undoes_no_change_of_the_secrets(
    world: World, column: str, status: int
) -> None:
    client = await world.register(token_endpoint_auth_method="client_secret_post")
    body = {"redirect_uris": [REDIRECT], "token_endpoint_auth_method": "client_secret_post", "client_name": "Late"}
    token = str(client["registration_access_token"])
    async with held_json(world.url, path(client), body, token=token, method="PUT") as held:
        await set_column(world, client, column, bytes(32))
        answer = await held.finish()
    assert answer.status_code == status, answer.text
    row = await world.vault.deployment.database.fetch_one(
        "select name, registration_hash, secret_hash from clients where id = :id", {"id": str(client["client_id"])}
    )
    assert row is not None
    assert row[column] == bytes(32)
    assert (row["name"] == "Late") is (status == 200)


@pytest.mark.parametrize("is_ended", [True, False])
async def test_a_management_token_that_ends_while_it_deletes_a_client_deletes_nothing(
    stored_world: World, store: Store, *, is_ended: bool
) -> None:
    client, database = await stored_world.register(), stored_world.vault.deployment.database
    client_id = str(client["client_id"])
    async with database.transaction() as ending:
        await grants.hold_client(ending, client_id)
        deleting = asyncio.ensure_future(stored_world.http.delete(path(client), headers=bearer(client)))
        await until_waiting(ending, number=1, is_sqlite=store.is_sqlite, unless=deleting)
        if is_ended:
            await ending.execute("update clients set registration_hash = null where id = :id", {"id": client_id})
    assert (await deleting).status_code == (401 if is_ended else 204)
    assert (await clients.get_client(database, client_id) is not None) is is_ended
