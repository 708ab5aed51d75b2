"""What admins do with services that take entered credentials: turn them on, and enter one for someone."""

from __future__ import annotations

import json

import httpx2
import pytest

from providers.simulator.local_server import running_simulator
from server.administration import access
from server.administration.access import EnteredValues
from server.administration.actor import Actor, ChangeRefused
from server.connecting import credentials
from server.connecting.credentials import Entry, EntryFault
from server.connecting.links import ConnectRefused
from server.http.page_texts import section
from tests.conftest import Store
from tests.support.commands import content, run
from tests.support.rooms.admin_room import AdminRoom
from tests.support.rooms.key_room import KeyRoom, write_services
from tests.support.rooms.portal_room import accounts_of
from vault import connections, delegations


async def test_the_admin_api_connects_an_account_by_a_key(room: KeyRoom) -> None:
    user = await room.user()
    key = room.simulator.sandbox.keys.make(user.name)
    async with httpx2.AsyncClient(base_url=room.url, timeout=30, trust_env=False) as http:
        admin = AdminRoom(room, http)
        admin.token = await admin.token_with("admin:access")
        path = f"/people/{user.id}/connections"
        bad: dict[str, object] = {"provider": "mailroom", "credential": {"key": "mr_live_" + "2" * 32}}
        refused = await admin.call("POST", path, json=bad)
        assert (refused.status_code, "doesn't accept it" in refused.json()["detail"]) == (400, True), refused.text
        assert "2" * 32 not in refused.text
        late = await admin.call("POST", path, json=bad | {"ends_on": "2031-02-31"})
        assert (late.status_code, "isn't in the future" in late.json()["detail"]) == (400, True), late.text
        made = await admin.call("POST", path, json={"provider": "mailroom", "credential": {"key": key}})
        assert made.status_code == 201, made.text
        assert made.json()["account"] == f"{user.name}@mailroom.example"
        assert key not in made.text
        again = await admin.call("POST", path, json={"provider": "mailroom", "credential": {"key": key}})
        assert (again.status_code, "already connected" in again.json()["detail"]) == (409, True), again.text
        newer = {"provider": "mailroom", "credential": {"key": room.simulator.sandbox.keys.make(user.name)}}
        replaced = await admin.call("POST", path, json=newer | {"replaces": made.json()["id"]})
        assert (replaced.status_code, replaced.json()["id"]) == (201, made.json()["id"]), replaced.text
        blind: dict[str, object] = {"provider": "mailroom-blind", "credential": {"key": key}, "label": "Mine"}
        statuses = [(await admin.call("POST", path, json=blind)).status_code for _ in range(2)]
        assert statuses == [201, 409]  # the service names no account, so only the name distinguishes them
    held, _ = sorted(await accounts_of(room, user), key=lambda one: one.provider)
    assert await delegations.list_for_connection(room.deployment.database, user.id, connection_id=held.id) == ()
    assert {"connection.opened", "connection.entered"} <= set(await room.kinds(user))


async def test_a_command_reads_a_key_from_a_file_or_standard_input(sqlite_store: Store) -> None:
    async with running_simulator() as simulator:
        settings = write_services(sqlite_store.data, simulator)
        lines = ["[sandbox]", "loopback_upstreams = true"]
        for name in ("mailroom", "mailroom-basic"):
            lines += [f"[providers.{name}]", f'apis = {{ main = "{settings[name]["apis"]["main"]}" }}']
        (sqlite_store.data / "config.toml").write_text("\n".join(lines), encoding="utf-8")
        added = await run(sqlite_store, "users", "add", "carol", "--password-stdin", feed="a long enough password")
        assert added.exit_code == 0, added.output
        command = ("connections", "connect", "mailroom", "--user", "carol", "--credential")
        key = simulator.sandbox.keys.make("carol")
        wrong = await run(sqlite_store, *command, "-", feed="mr_live_short\n")
        assert (wrong.exit_code, "doesn't have the form" in wrong.output) == (1, True), wrong.output
        assert "mr_live_short" not in wrong.output
        made = await content(sqlite_store, *command, "-", feed=f"{key}\n")
        assert isinstance(made, dict)
        assert made["account"] == "carol@mailroom.example"
        file = sqlite_store.data / "key.json"
        file.write_text(json.dumps({"login": "carol", "key": key}), encoding="utf-8")
        twice = await run(sqlite_store, *command, "-", feed=key)
        assert (twice.exit_code, "already connected" in twice.output) == (1, True), twice.output
        newer = await content(
            sqlite_store, *command, "-", "--replaces", f"{made['id']}", feed=simulator.sandbox.keys.make("carol")
        )
        assert isinstance(newer, dict)
        assert newer["id"] == made["id"]
        basic = ("connections", "connect", "mailroom-basic", "--user", "carol", "--credential", str(file))
        both = await content(sqlite_store, *basic)
        assert isinstance(both, dict)
        assert both["provider"] == "mailroom-basic"


async def test_an_admin_turns_a_service_on_and_off_in_the_browser(room: KeyRoom) -> None:
    admin = await room.signed_in()
    page = await admin.open("/administration/providers/resend")
    assert "People enter credentials of their own accounts" in page.text
    assert "not_set_up" not in page.text
    refused = await admin.open("/connections/connect?provider=resend")
    assert refused.status_code == 409
    on = await admin.submit(page, form="/administration/providers/resend")
    assert on.status_code == 200, on.text
    form = await room.form(admin, "resend")
    assert "re_OneExample" not in form.text  # the example of a secret isn't shown
    assert "https://resend.com/api-keys" in form.text
    confirm = await admin.open("/administration/providers/resend/remove")
    await admin.submit(confirm, form="/remove")
    assert (await admin.open("/connections/connect?provider=resend")).status_code == 409


async def test_the_setup_of_a_service_turns_it_on(sqlite_store: Store) -> None:
    done = await run(sqlite_store, "providers", "setup", "resend")
    assert (done.exit_code, "Each person then enters: API key" in done.output) == (0, True), done.output
    assert "enabled = true" in (sqlite_store.data / "config.toml").read_text(encoding="utf-8")
    shown = await content(sqlite_store, "providers", "show", "resend")
    assert isinstance(shown, dict)
    assert shown["configured"] is True


async def test_a_credential_replaces_one_of_the_same_service_that_is_turned_on(room: KeyRoom) -> None:
    user, deployment = await room.user(), room.deployment
    operator, provider = Actor(deployment, None, "command_line"), deployment.catalog.provider("mailroom")
    keys = room.simulator.sandbox.keys
    held = await access.connect_by_credential(
        operator, user, provider, entered=EnteredValues({"key": keys.make(user.name)})
    )
    blind, resend = (deployment.catalog.provider(name) for name in ("mailroom-blind", "resend"))
    entered = EnteredValues({"key": keys.make(user.name)}, label="Mine")
    with pytest.raises(ChangeRefused) as refused:
        await access.connect_by_credential(operator, user, blind, entered=entered, replaces=held.id)
    assert refused.value.field == "replaces"
    with pytest.raises(ConnectRefused, match="isn't turned on"):
        await access.connect_by_credential(operator, user, resend, entered=entered)
    with pytest.raises(EntryFault) as fault:
        await credentials.examine(deployment, deployment.catalog.provider("slack"), Entry(entered.values), user=user)
    assert fault.value.reason == "unknown"
    replaced = await access.connect_by_credential(operator, user, provider, entered=entered, replaces=held.id)
    assert replaced.id == held.id
    assert (await access.connect_by_credential(operator, user, blind, entered=entered)).label == "Mine"


async def test_a_page_that_replaces_a_key_ends_with_its_account(room: KeyRoom) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    held = await room.connect_account(user, person)
    page = await person.submit(await person.open(f"/connections/{held.id}"), form="/reconnect")
    again = await person.submit(await person.open(f"/connections/{held.id}"), form="/reconnect")
    key = room.simulator.sandbox.keys.make(user.name)
    assert str((await room.enter(person, page, key=key)).url).endswith(held.id)  # the twin
    async with room.deployment.transaction() as transaction:
        deployment = room.deployment
        await connections.disconnect(transaction, deployment.keys, held, now=deployment.now(), by=user.name)
    refused = await room.enter(person, again, key=room.simulator.sandbox.keys.make(user.name))
    assert refused.status_code == 400
    assert "disconnected in the meantime" in refused.text


def test_every_fault_has_words_for_admins_and_for_people() -> None:
    assert set(access.FAULTS) == set(section("credential_refused")) - {"shape_like"}
