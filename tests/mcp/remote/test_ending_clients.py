"""Registrations that expire without having been renewed: administrators are notified once, and nobody else is."""

from __future__ import annotations

import json
from functools import partial

import pytest

from server.notices.delivery import deliver
from server.remote import renewal_step
from server.sign_in.approvers import approvers_of
from tests.mcp.remote.remote_room import RemoteRoom
from tests.mcp.remote.test_client_renewal import DAY, POST, kinds, read_registration
from tests.support.doubles.mailbox import running_receiver
from vault import users
from vault.notices import channels
from vault.notices.channels import NoticeSettings

TITLE = "the vault's registration ends"


async def add_server(place: RemoteRoom, *, days: int, ends_in: int, **changes: int) -> str:
    """A server whose registration was made this many days ago; returns its name."""
    now = place.deployment.now()
    name, _ = await place.add(metadata=POST, secret_ends=now + ends_in * DAY, **changes)
    async with place.deployment.transaction() as transaction:
        sql = "update provider_registrations set changed_at = :at where provider = :name"
        await transaction.execute(sql, {"at": now - days * DAY, "name": name})
    return name


@pytest.mark.parametrize(
    ("days", "ends_in", "renewed_end", "is_told"),
    [(6, 1, None, True), (4, 2, None, False), (6, 1, 90, False)],
    ids=["nothing renewed it", "there is time left", "renewed"],
)
async def test_an_admin_sees_a_registration_that_ends(
    place: RemoteRoom, days: int, ends_in: int, renewed_end: int | None, *, is_told: bool
) -> None:
    changes = {} if renewed_end is None else {"renewed_end": place.deployment.now() + renewed_end * DAY}
    name = await add_server(place, days=days, ends_in=ends_in, **changes)
    assert (await read_registration(place, name)).renew_at <= place.deployment.now(), "its renewal is due"
    for _ in range(2):
        await renewal_step.STEP.work(place.deployment)
    renewed = ["mcp_server.client_renewed"] if renewed_end else []
    assert await kinds(place, name) == (["mcp_server.client_ending"] if is_told else renewed)
    home = (await place.person.open("/")).text
    page = (await place.person.open(f"/administration/tools/servers/{name}")).text
    assert (f"{name.capitalize()}: {TITLE}" in home) is is_told
    assert ("didn't renew it" in page) is is_told


async def test_those_who_administer_are_notified_while_it_ends(place: RemoteRoom) -> None:
    deployment = place.deployment
    send = partial(deliver, deployment, approvers=partial(approvers_of, deployment))
    async with running_receiver() as receiver:
        await send()  # start the feed
        now = deployment.now()
        async with deployment.transaction() as transaction:
            for person in ("alice", "bob"):
                found = await users.find_user(transaction, person) or await users.create_user(
                    transaction, person, now=now
                )
                target = f"{receiver.url}/{person}"
                await channels.add_channel(
                    transaction, deployment.keys, user_id=found.id, kind="webhook", label=person, target=target, now=now
                )
                await channels.save_settings(transaction, found.id, NoticeSettings(kinds={"expiring": "at_once"}))
        ending, renewed = [await add_server(place, days=6, ends_in=1) for _ in range(2)]
        await renewal_step.STEP.work(deployment)
        async with deployment.transaction() as transaction:
            sql = "update provider_registrations set changed_at = :now where provider = :name"
            await transaction.execute(sql, {"now": now, "name": renewed})
        await send()
        ((path, body),) = receiver.posted
    assert path == "/alice", "bob administers nothing, and what was renewed meanwhile is no news"
    assert f"registration at {ending.capitalize()} ends" in str(json.loads(body))
    assert f"/administration/tools/servers/{ending}" in str(json.loads(body))
