"""A key goes only to its service's hosts: not to other hosts, agents, people, logs, or error texts."""

from __future__ import annotations

import logging
from base64 import b64encode

import httpx2
import pytest

from providers.api.api import RuleRefused, UpstreamAPI
from providers.api.masking import mask
from providers.api.secrets import masks_of
from providers.definitions.catalog import load_catalog
from providers.definitions.credential import BasicPair, Credential, CredentialField, CredentialPlacement
from server.doctor.providers import check_provider
from tests.support.rooms.exchange_room import ExchangeRoom
from tests.support.rooms.key_room import READ, WRITE, KeyRoom
from tests.support.rooms.mcp_room import Room as McpRoom
from tests.support.rooms.portal_room import accounts_of
from tests.support.simulator_apps import make_client
from vault import delegations
from vault.upkeep import receipts, revocations


async def test_a_redirect_to_another_host_gets_no_key(room: KeyRoom) -> None:
    user = await room.user()
    key = room.simulator.sandbox.keys.make(user.name)
    connection = await room.connect_account(user, await room.signed_in(user), key=key)
    handle = await room.allow_agent(user, connection, READ)
    answer = await handle.call("GET", "/elsewhere", api="main")
    assert (answer.status_code, answer.headers["token-vault-refusal"]) == (502, "redirect_refused")
    assert room.simulator.books()["trapped"] == []
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200


@pytest.mark.parametrize("provider", ["mailroom", "mailroom-query", "mailroom-basic"])
async def test_a_key_in_an_error_text_is_masked(room: KeyRoom, provider: str) -> None:
    user = await room.user()
    key = room.simulator.sandbox.keys.make(user.name)
    values = {"key": key} | ({"login": "alice"} if provider == "mailroom-basic" else {})
    connection = await room.connect_account(user, await room.signed_in(user), provider, **values)
    handle = await room.allow_agent(user, connection, READ)
    answer = await handle.call("GET", "/echo", api="main")
    assert (answer.status_code, key in answer.text) == (400, False)
    assert answer.json()["message"] == "bad request with " + "*" * len(key)


async def test_a_client_secret_in_an_answer_is_masked(room: KeyRoom) -> None:
    user = await room.user()
    client_id, secret = make_client(room.simulator, user.name)
    values = {"client_id": client_id, "client_secret": secret}
    connection = await room.connect_account(user, await room.signed_in(user), "mailroom-client", **values)
    handle = await room.allow_agent(user, connection, WRITE)
    answer = await handle.call("POST", "/messages", api="main", json={"to": f"{client_id} {secret}"})
    assert answer.json()["to"] == f"{client_id} {'*' * len(secret)}"
    mcp = McpRoom(room.vault, room.simulator)
    agent = await mcp.agent(user.name)
    await mcp.allow(agent, connection, WRITE)
    async with mcp.client(agent) as client:
        called = {"method": "POST", "path": "/messages", "body": {"to": secret}}
        answered = await client.call_tool("mailroom_client_api_call", called)
    assert (answered.is_error, secret in str(answered)) == (False, False), answered


async def test_a_key_in_the_query_is_in_no_log_line(room: KeyRoom, caplog: pytest.LogCaptureFixture) -> None:
    user = await room.user()
    key = room.simulator.sandbox.keys.make(user.name)
    person = await room.signed_in(user)
    with caplog.at_level(logging.DEBUG):
        connection = await room.connect_account(user, person, "mailroom-query", key=key)
        handle = await room.allow_agent(user, connection, READ)
        assert (await handle.call("GET", "/messages?page=2", api="main")).status_code == 200
        room.simulator.fault("mailroom.api.messages", "drop_before")
        assert (await handle.call("GET", "/messages?page=3", api="main")).status_code >= 500
    ours = [one.getMessage() for one in caplog.records if one.name.startswith("token_vault")]
    assert ours
    at_the_service = '"GET /mailroom/'  # its own log
    assert not [one for one in caplog.text.splitlines() if key in one and at_the_service not in one]
    sent = await handle.call("GET", "/messages?key=mr_live_other", api="main")
    assert sent.headers["token-vault-refusal"] == "credential_refused"


async def test_a_client_cannot_put_its_own_key_in_place_of_the_account_s(room: KeyRoom) -> None:
    user = await room.user()
    connection = await room.connect_account(user, await room.signed_in(user))
    handle = await room.allow_agent(user, connection, READ)
    foreign = room.simulator.sandbox.keys.make("bob")
    answer = await handle.call("GET", "/messages", api="main", headers={"x-mailroom-key": foreign})
    assert (answer.status_code, answer.json()["messages"][0]["subject"]) == (200, f"For {user.name}")


async def test_an_answer_that_contains_a_new_key_is_not_fetched(room: KeyRoom) -> None:
    user = await room.user()
    connection = await room.connect_account(user, await room.signed_in(user))
    handle = await room.allow_agent(user, connection, WRITE)
    refused = await handle.call("POST", "/keys", api="main", json={})
    assert (refused.status_code, refused.headers["token-vault-refusal"]) == (403, "call_not_allowed")
    assert (await handle.call("POST", "/messages", api="main", json={"to": "bob"})).status_code == 200


async def test_names_close_what_an_agent_that_reads_could_fetch_or_change(room: KeyRoom) -> None:
    user = await room.user()
    connection = await room.connect_account(user, await room.signed_in(user))
    reading = await room.allow_agent(user, connection, READ)
    asked = len(room.books())
    for target, refusal in (
        ("/api_key", "call_not_allowed"),
        ("/messages?include_credentials=true", "call_not_allowed"),
        ("/messages?fields=id&fields=secret", "call_not_allowed"),
        ("/messages?delete=1", "scope_missing"),
        ("/messages/cancel", "scope_missing"),
        ("/messages?token=mr_live_other", "credential_refused"),
    ):
        refused = await reading.call("GET", target, api="main")
        assert (refused.status_code, refused.headers.get("token-vault-refusal")) != (200, None), target
        assert refused.headers["token-vault-refusal"] == refusal, target
    assert len(room.books()) == asked
    for target in ("/messages", "/messages?include_credentials=false", "/messages?fields=id&fields=subject"):
        assert (await reading.call("GET", target, api="main")).status_code == 200, target
    writing = await room.allow_agent(user, connection, WRITE)
    assert (await writing.call("GET", "/messages?delete=1", api="main")).status_code == 200


async def test_a_tool_fetches_no_answer_that_contains_a_new_key(room: KeyRoom) -> None:
    """Also with the path spelled as some servers would accept it."""
    deployment, key = room.deployment, room.simulator.sandbox.keys.make("alice")
    [tool] = [one for one in deployment.tools if one.name == "mailroom_api_call"]
    provider = deployment.catalog.provider("mailroom")
    api = UpstreamAPI(provider, deployment.http, token=key, scopes=WRITE, now=deployment.now())

    async def send(path: str) -> str:
        arguments = tool.input.model_validate({"path": path, "method": "POST", "body": {"to": "bob"}})
        return (await tool.call(api, arguments, _silent)).model_dump_json()

    made = len(room.simulator.sandbox.keys.accounts)
    for path in ("/keys", "/Keys", "/keys.json", "/keys/", "/k%65ys"):
        with pytest.raises(RuleRefused):
            await send(path)
    assert len(room.simulator.sandbox.keys.accounts) == made
    assert "bob" in await send("/messages")


async def _silent(done: int, total: int | None, message: str) -> None:
    """Ignore progress."""


async def test_an_agent_that_only_reads_cannot_write(room: KeyRoom) -> None:
    user = await room.user()
    connection = await room.connect_account(user, await room.signed_in(user))
    handle = await room.allow_agent(user, connection, READ)
    refused = await handle.call("POST", "/messages", api="main", json={"to": "bob"})
    assert (refused.status_code, refused.headers["token-vault-refusal"]) == (403, "scope_missing")
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200


async def test_nobody_uses_another_person_s_key(room: KeyRoom) -> None:
    owner, other = await room.user(), await room.user()
    theirs = await room.connect_account(owner, await room.signed_in(owner))
    mine = await room.connect_account(other, await room.signed_in(other))
    handle = await room.allow_agent(other, mine, READ)
    async with httpx2.AsyncClient(timeout=30, trust_env=False) as http:
        url = f"{room.url}/proxy/{theirs.id}/main/messages"
        answer = await http.get(url, headers={"authorization": f"Bearer {handle.value}"})
    assert (answer.status_code, answer.headers["token-vault-refusal"]) == (404, "unknown_target")
    stranger = await room.signed_in(other)
    assert (await stranger.open(f"/connections/{theirs.id}")).status_code == 404
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200


@pytest.mark.parametrize(
    ("provider", "release", "gets_key"),
    [
        ("mailroom", None, False),
        ("mailroom", "narrowed", False),
        ("mailroom", "full", True),
        ("mailroom-basic", "full", False),  # two parts, which no bearer token can replace
    ],
)
async def test_an_exchange_hands_out_a_key_by_the_operators_act_only(
    room: KeyRoom, provider: str, release: str | None, gets_key: bool
) -> None:
    user = await room.user()
    key = room.simulator.sandbox.keys.make(user.name)
    values = {"key": key} | ({"login": "alice"} if provider == "mailroom-basic" else {})
    connection = await room.connect_account(user, await room.signed_in(user), provider, **values)
    async with httpx2.AsyncClient(base_url=room.url, timeout=30, trust_env=False) as http:
        exchanging = ExchangeRoom(McpRoom(room.vault, room.simulator), http)
        act = exchanging.caller() if release is None else exchanging.caller(release={provider: release})
        caller = await act
        agent = await exchanging.agent(caller, user.name)
        async with room.deployment.transaction() as transaction:
            await delegations.extend(
                transaction,
                user_id=user.id,
                client_id=caller.client.id,
                connection_id=connection.id,
                scopes=READ,
                now=room.deployment.now(),
            )
        answer = await exchanging.exchange(caller, agent.token, audience=provider, scope="read")
        content = answer.json()
        assert answer.status_code == 200, content
        assert (content["access_token"] == key) is gets_key
        assert (key in answer.text) is gets_key
        assert content["narrowing"] == ("none" if gets_key else "enforced")
        if not gets_key:
            called = await http.get(
                content["api_base_url"] + "/messages", headers={"authorization": f"Bearer {content['access_token']}"}
            )
            assert called.status_code == 200


async def test_a_disconnected_key_is_watched_until_its_person_deletes_it(room: KeyRoom) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    keys, deployment = room.simulator.sandbox.keys, room.deployment
    key = keys.make(user.name)
    connection = await room.connect_account(user, person, key=key)
    handle = await room.allow_agent(user, connection, READ)
    confirm = await person.open(f"/connections/{connection.id}/disconnect")
    assert "delete it there, too" in confirm.text
    page = await person.submit(confirm, form="/disconnect")
    assert (await handle.call("GET", "/messages", api="main")).status_code in {401, 403}
    await room.until_asked(connection.id)
    page = await person.open(f"/connections?closed={connection.id}")
    assert "it still works at the provider" in page.text
    assert "https://mailroom.example/settings/keys" in page.text
    receipt = await receipts.get_receipt(deployment.database, connection.id)
    assert receipt is not None
    assert (receipt.result, receipt.reason, receipt.is_final) == ("still_alive", "no_revocation", False)
    kept_keys = "select connection_id from keys.connection_keys where connection_id = :id"
    assert len(list(await deployment.database.fetch(kept_keys, {"id": connection.id}))) == 1  # to ask again
    keys.delete(key)
    deployment.database.clock_offset += 86400
    await revocations.run_due(deployment.vault)
    receipt = await receipts.get_receipt(deployment.database, connection.id)
    assert receipt is not None
    assert (receipt.result, receipt.is_final) == ("verified_dead", True)
    assert list(await deployment.database.fetch(kept_keys, {"id": connection.id})) == []
    assert await accounts_of(room, user) == ()


async def test_doctor_finds_the_key_that_was_deleted_at_the_service(room: KeyRoom) -> None:
    user, provider = await room.user(), room.deployment.catalog.provider("mailroom-user")
    keys = room.simulator.sandbox.keys
    key = keys.make(user.name)
    await room.connect_account(user, await room.signed_in(user), "mailroom-user", key=key)
    [good] = await check_provider(room.deployment, provider)
    assert (good.verdict.value, "1 of 1" in good.sentence) == ("ok", True)
    keys.delete(key)
    [found] = await check_provider(room.deployment, provider)
    assert found.verdict.value == "problem"
    assert f"no longer accepts the credential of {user.name}@mailroom.example of {user.name}" in found.sentence
    [held] = await accounts_of(room, user)
    assert held.state.value == "needs_reauth"


async def test_a_disconnected_key_that_cannot_be_asked_about_is_said_to_be(room: KeyRoom) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    key = room.simulator.sandbox.keys.make(user.name)
    connection = await room.connect_account(user, person, "mailroom-blind", key=key, label="Mine")
    await person.submit(await person.open(f"/connections/{connection.id}/disconnect"), form="/disconnect")
    await room.until_asked(connection.id)
    receipt = await receipts.get_receipt(room.deployment.database, connection.id)
    assert receipt is not None
    assert (receipt.result, receipt.reason, receipt.is_final) == ("unsupported", "no_revocation", True)


def test_the_pair_of_basic_is_masked_however_short_its_password_is() -> None:
    fields = {"key": CredentialField(title="Password")}
    sent = b"sent: Basic " + b64encode(b"me:sekret99")
    for send, is_masked in (
        (CredentialPlacement(basic=BasicPair(user="me", password="{key}")), True),
        (CredentialPlacement(), False),
    ):
        changed = {"credential": Credential(fields=fields, send=send)}
        provider = load_catalog().provider("apify").model_copy(update=changed)
        assert (b64encode(b"me:sekret99").rstrip(b"=") not in mask(sent, masks_of(provider, "sekret99"))) is is_masked
