"""Ten misconfigurations that Auth0's clients report as one error: `explain` names only the broken step of each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

import httpx2
import pytest
from typer.testing import CliRunner

from server.auth0.explanation import WireQuestion, explain_wire
from server.cli import app
from server.doctor.auth0 import check_auth0
from tests.auth0.application import Application
from tests.support.rooms.portal_room import Room, running_room
from vault import clients, connections, delegations, grants
from vault.records import ClientKind

Break = Callable[[Application], Awaitable[None]]


async def failing_steps(application: Application, connection: str = "sign-in-with-slack") -> dict[str, str]:
    """The failing steps with their fixes, as the command prints them."""
    data = application.room.deployment.data
    (data / "config.toml").write_text(
        f'[server]\npublic_url = "{application.room.url}"\nissuer_slash = true\n[auth0]\nenabled = true\n'
        '[providers.slack]\nclient_id = "id"\nclient_secret = "secret"\n'
    )
    arguments = ["explain", "--user", application.user.name, "--client", application.client.id, "--json"]
    arguments += ["--connection", connection, "--data", str(data)]
    said = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    content = json.loads(said.stdout)
    steps = [one for one in (*content["auth0"], *content["steps"]) if one.get("outcome") != "not checked"]
    found = {str(one["step"]): str(one["fix"]) for one in steps if one["fix"]}
    assert content["works"] == (not found) == (said.exit_code == 0), said.stdout
    return found


async def change(application: Application, **changes: object) -> None:
    held = await clients.get_client(application.room.deployment.database, application.client.id)
    assert held is not None
    changed = replace(held, **changes)  # pyright: ignore[reportArgumentType]
    async with application.room.deployment.transaction() as transaction:
        await clients.update_client(transaction, changed)


async def _publish(one: Application) -> None:
    await change(one, auth_method="none", secret_hash=None)


async def _narrow(one: Application) -> None:
    await change(one, metadata={"auth0": True})


async def _forbid(one: Application) -> None:
    await change(one, grant_types=frozenset({"authorization_code", "refresh_token"}))


async def _stop_refreshing(one: Application) -> None:
    await change(one, grant_types=one.client.grant_types - {"refresh_token"})


async def _unlink(one: Application) -> None:
    await change(one, redirect_uris=())


async def _sign_out(one: Application) -> None:
    async with one.room.deployment.transaction() as transaction:
        now = one.room.deployment.now()
        await grants.revoke_client_grants(
            transaction, user_id=one.user.id, client_id=one.client.id, reason="test", now=now
        )


async def _take_scope(one: Application) -> None:
    async with one.room.deployment.transaction() as transaction:
        await transaction.execute(
            "update grants set scopes = 'openid' where client_id = :client", {"client": one.client.id}
        )


async def _disconnect(one: Application) -> None:
    for held in await connections.list_connections(one.room.deployment.database, one.user.id):
        async with one.room.deployment.transaction() as transaction:
            await connections.disconnect(transaction, one.room.deployment.keys, held, now=one.room.deployment.now())


async def _take_permission(one: Application) -> None:
    async with one.room.deployment.transaction() as transaction:
        await delegations.revoke_for_client(
            transaction, user_id=one.user.id, client_id=one.client.id, now=one.room.deployment.now()
        )


@pytest.mark.parametrize(
    ("breaks", "step"),
    [
        (_publish, "secret"),
        (_narrow, "release"),
        (_forbid, "grant type"),
        (_stop_refreshing, "refresh"),
        (_unlink, "api"),
        (_sign_out, "grant"),
        (_take_scope, "sign-in"),
        (_disconnect, "connection"),
        (_take_permission, "delegation"),
    ],
)
async def test_each_broken_set_up_is_named_and_the_whole_one_is_not(
    application: Application, breaks: Break, step: str
) -> None:
    await application.connect()
    assert await failing_steps(application) == {}
    assert (await application.account_token()).status_code == 200
    await breaks(application)
    found = await failing_steps(application)
    assert step in found, found
    assert found[step]


async def test_an_unknown_connection_and_one_that_nobody_set_up_are_told_apart(application: Application) -> None:
    await application.connect()
    question = WireQuestion(application.client, application.user, "")
    deployment = application.room.deployment

    async def steps_to_fix(connection: str) -> list[str]:
        steps = await explain_wire(deployment, replace(question, connection=connection))
        return [one.step for one in steps if one.fix]

    assert await steps_to_fix("my-own-connection") == ["name"]
    assert await steps_to_fix("freshbooks") == ["set up", "release"]
    assert await steps_to_fix("sign-in-with-slack") == []


async def test_an_application_that_registered_itself_is_told_to_be_registered(
    room: Room, application: Application
) -> None:
    other = await Application.register(room, application.http, kind=ClientKind.DYNAMIC)
    steps = await explain_wire(room.deployment, WireQuestion(other.client, other.user, "slack"))
    assert "registered" in [one.step for one in steps if one.fix]


@pytest.fixture(scope="module")
async def plain(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    overrides = {"auth0": {"connections": {"our-slack": "slak"}}}
    async with running_room(tmp_path_factory.mktemp("plain") / "data", overrides=overrides) as opened:
        yield opened


async def test_the_settings_of_the_wire_are_named(plain: Room) -> None:
    async with httpx2.AsyncClient(base_url=plain.url, timeout=30) as http:
        made = await Application.register(plain, http)
    steps = await explain_wire(plain.deployment, WireQuestion(made.client, made.user, "slack", "slack"))
    assert {"wire", "issuer"} <= {one.step for one in steps if one.fix}


async def test_the_doctor_looks_at_this_wire_where_it_is_on(room: Room, plain: Room) -> None:
    assert check_auth0(plain.deployment) == []
    assert [(one.verdict.value, "https" in one.sentence) for one in check_auth0(room.deployment)] == [("note", True)]
    settings = room.deployment.settings.model_copy(update={"auth0": plain.deployment.settings.auth0.model_copy(
        update={"enabled": True})})  # fmt: skip
    found = check_auth0(replace(room.deployment, settings=settings))
    assert [one.sentence for one in found if one.verdict.value == "problem"] == [
        "the connection our-slack means slak, which isn't a provider here"
    ]
    secure = settings.model_copy(
        update={"auth0": room.deployment.settings.auth0, "server": settings.server.model_copy(
            update={"public_url": "https://vault.example"})}
    )  # fmt: skip
    (fine,) = check_auth0(replace(room.deployment, settings=secure))
    assert fine.verdict.value == "ok"
