"""How to manage an endpoint: commands, Admin API, and the person's pages about a stop; the outbox on both databases."""

from __future__ import annotations

import base64
from pathlib import Path

from server.app import open_deployment
from server.notices import webhooks
from server.notices.delivery import deliver
from server.settings import load_settings
from tests.conftest import Store
from tests.support.commands import content, run
from tests.support.doubles.mailbox import running_receiver
from tests.support.doubles.transmitter_double import RISC
from tests.support.rooms.admin_room import problem, running_admin_room
from tests.support.rooms.signal_room import SignalRoom
from vault.audit import audit
from vault.notices import endpoints, outbox
from vault.records import Event


async def test_the_outbox_of_endpoints_works_on_both_databases(store: Store) -> None:
    overrides = {"database": {"url": store.url}, "sandbox": {"loopback_upstreams": True}}
    async with (
        running_receiver() as receiver,
        open_deployment(load_settings(overrides=overrides), data=store.data) as deployment,
    ):
        await outbox.begin(deployment.database)
        async with deployment.transaction() as transaction:
            made = await endpoints.add(
                transaction, deployment.keys, url=f"{receiver.url}/hook", events=frozenset({"revoked"}), now=1
            )
            event = Event("connection.closed", user_id="someone", connection_id="c1", details={"provider": "slack"})
            await audit.append(transaction, event, now=deployment.now())
        receiver.status = 500
        await deliver(deployment)
        for _ in webhooks.BACKOFF:
            deployment.database.clock_offset += 100_000
            await deliver(deployment)
        (failed,) = await endpoints.list_failed(deployment.database, made.id)
        assert (failed.type, failed.failure) == ("revoked", "500")
        receiver.status = 200
        now = deployment.now()
        async with deployment.transaction() as transaction:
            assert await endpoints.resend(transaction, made.id, sequence=failed.sequence, until=now + 99, now=now) == 1
        assert await deliver(deployment) == 1
        assert await endpoints.list_failed(deployment.database, made.id) == ()
        assert len({body for _, body in receiver.posted}) == 1
        async with deployment.transaction() as transaction:
            until = deployment.now() + 3600
            changed = await endpoints.rotate(transaction, deployment.keys, made.id, previous_until=until, now=now)
            assert changed is not None
            assert changed.signing_secrets(deployment.now()) == (changed.secret, made.secret)
            assert changed.signing_secrets(until) == (changed.secret,)
            assert (
                await endpoints.rotate(transaction, deployment.keys, "unknown", previous_until=until, now=now) is None
            )
            secrets = [made.secret, changed.secret]
            signing = ((0, 3600, "210"), (1, 59, "3210"), (60, 7200, "4310"), (61, 7200, "5431"), (62, 0, "6"))
            for later, lifetime, numbers in signing:
                at = now + later
                changed = await endpoints.rotate(
                    transaction, deployment.keys, made.id, previous_until=at + lifetime, now=at
                )
                assert changed is not None
                secrets.append(changed.secret)
                assert changed.signing_secrets(at) == tuple(secrets[int(one)] for one in numbers), later
            assert await endpoints.disable(transaction, made.id)
            assert await endpoints.enable(transaction, made.id)
        (known,) = await endpoints.list_endpoints(deployment.database, deployment.keys)
        assert (known.secret, known.previous, known.failure) == (secrets[-1], secrets[-2], "")
        async with deployment.transaction() as transaction:
            assert await endpoints.remove(transaction, made.id)


async def test_commands_add_list_and_remove_an_endpoint_whose_secret_is_shown_once(sqlite_store: Store) -> None:
    made = await content(sqlite_store, "webhooks", "add", "https://hooks.example/vault", "--event", "revoked")
    assert isinstance(made, dict)
    secret = made.pop("secret")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    assert await content(sqlite_store, "webhooks", "list") == [made]
    assert (made["events"], made["state"]) == (["revoked"], "unused")
    for wrong, word in (
        (("add", "http://hooks.example"), "not https"),
        (("add", "https://hooks.example", "--event", "revokd"), "revoked"),
        (("resend", made["id"], "--sequence", "9"), "did not fail"),
    ):
        result = await run(sqlite_store, "webhooks", *wrong)
        assert result.exit_code == 1
        assert word in result.output
    assert await content(sqlite_store, "webhooks", "resend", made["id"]) == {"endpoint": made["id"], "events": 0}
    rotated = await content(sqlite_store, "webhooks", "rotate", made["id"], "--overlap", "2")
    assert isinstance(rotated, dict)
    assert rotated["secret"] not in {secret, ""}
    assert (await run(sqlite_store, "webhooks", "rotate", made["id"], "--overlap", "999")).exit_code == 1
    disabled = await content(sqlite_store, "webhooks", "disable", made["id"])
    assert disabled == made | {"state": "disabled", "failure": "disabled"}
    assert "enable it first" in (await run(sqlite_store, "webhooks", "resend", made["id"])).output
    assert await content(sqlite_store, "webhooks", "enable", made["id"]) == made
    tested = await run(sqlite_store, "webhooks", "test", made["id"])  # hooks.example doesn't resolve
    assert tested.exit_code == 1
    assert "Not accepted" in tested.output
    await content(sqlite_store, "webhooks", "remove", made["id"])
    assert await content(sqlite_store, "webhooks", "list") == []


async def test_the_admin_api_does_the_same_for_whoever_may_see_everybodys_access(tmp_path: Path) -> None:
    async with running_admin_room(tmp_path / "vault") as room:
        body = {"url": "https://hooks.example/vault", "events": ["revoked"]}
        reader = await room.request_token(await room.service_account("admin:read", "admin:write"))
        refused = await room.http.post(
            "/admin/v1/webhooks", json=body, headers={"authorization": f"Bearer {reader.json()['access_token']}"}
        )
        assert refused.status_code == 403
        added = await room.call("POST", "/webhooks", json=body)
        assert added.status_code == 201, added.text
        assert added.json()["secret"].startswith("whsec_")
        endpoint = added.json()["endpoint"]
        listed = await room.call("GET", "/webhooks")
        assert listed.json() == {"items": [endpoint]}
        assert (await room.call("GET", "/webhook-failures")).json() == {"items": []}
        problem(
            await room.call("POST", "/webhooks", json=body | {"url": "https://10.0.0.1/x"}), 400, "endpoint_refused"
        )
        problem(await room.call("POST", f"/webhooks/{endpoint['id']}/resend", json={"sequence": 1}), 404, "no_endpoint")
        assert (await room.call("POST", f"/webhooks/{endpoint['id']}/resend", json={})).json() == {"events": 0}
        path = f"/webhooks/{endpoint['id']}"
        changed = await room.call("POST", f"{path}/secrets", json={"overlap_hours": 1})
        assert changed.status_code == 201, changed.text
        assert changed.json()["secret"] not in {added.json()["secret"], ""}
        problem(await room.call("POST", f"{path}/secrets", json={"overlap_hours": 169}), 400, "invalid_request")
        assert (await room.call("PATCH", path, json={"disabled": True})).json()["disabled"]
        problem(await room.call("POST", f"{path}/resend", json={}), 409, "endpoint_disabled")
        assert (await room.call("PATCH", path, json={"disabled": False})).json() == endpoint
        tested = await room.call("POST", f"{path}/test")
        assert not tested.json()["accepted"]
        assert tested.json()["failure"]
        assert (await room.call("DELETE", f"/webhooks/{endpoint['id']}")).status_code == 204
        problem(await room.call("DELETE", f"/webhooks/{endpoint['id']}"), 404, "no_endpoint")


async def test_pages_say_whose_agents_a_signal_stopped_and_how_they_go_on(place: SignalRoom) -> None:
    person, alice = await place.link_person(), await place.room.signed_in("alice")
    path = f"/administration/people/{person.user.id}"
    assert "Let agents continue" not in (await alice.open(path)).text
    assert (await place.event(f"{RISC}account-disabled", place.subject(person))).status_code == 202
    await place.sign_in_again(person)
    home = (await person.browser.open("/")).text
    assert "Your agents have been stopped since" in home
    assert '/sign-in/openid/company">Sign in there to let them continue' in home
    page = await alice.open(path)
    assert "Agents stopped" in page.text
    assert place.openid.url in page.text
    done = await alice.submit(page, form=f"{path}/enable")
    assert f"The agents of {person.user.name} can act again." in (done.text if done.status_code == 200 else "")
    assert await place.can_call(person)
    assert "have been stopped" not in (await person.browser.open("/")).text
