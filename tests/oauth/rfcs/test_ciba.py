"""OpenID CIBA Core 1.0: a client asks its person in the background, who answers on the approval pages."""

from __future__ import annotations

import asyncio
import json
import re
from html import unescape

import httpx2
import pytest

from server.lifecycle.periodic_steps import sweep
from server.oauth.backchannel import ciba_grant
from server.oauth.backchannel.clients import DETAILS_TYPES
from server.oauth.clients.rules import BACKCHANNEL_GRANT
from server.oauth.rules import admin_resource
from tests.oauth.rfcs.test_rfc9449 import proof
from tests.support.harness import PASSWORD
from tests.support.rooms.ciba_room import PAYMENT, SECRET, Asker, nested_details
from tests.support.rooms.oauth_world import claims_of, error_of
from vault import apis, grants, limits
from vault.approvals import requests
from vault.records import ClientKind


def read(page: httpx2.Response) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page.text)).split())


async def test_the_person_says_yes_on_another_device_and_the_client_gets_one_token(asker: Asker) -> None:
    sent = await asker.post({"authorization_details": json.dumps([PAYMENT]), "requested_expiry": "120"})
    found = sent.json()
    assert (found["expires_in"], found["interval"], len(found["auth_req_id"])) == (120, 5, 43)  # 256 bits
    waiting = await asker.poll(found["auth_req_id"])
    assert (waiting.status_code, error_of(waiting)) == (400, "authorization_pending")
    page = read(await asker.page())
    for told in ("Bakery bot asks you to confirm: Order 4711: 12,50 EUR", "payment", "to: Bakery", "See your user ID"):
        assert told in page, page
    assert "Call this vault's tools" in page
    done = read(await asker.answer())
    assert "The agent gets your answer automatically" in done
    issued = await asker.poll(found["auth_req_id"])
    assert issued.status_code == 200, issued.text
    tokens = issued.json()
    assert tokens["authorization_details"] == [PAYMENT]
    assert "refresh_token" not in tokens
    assert tokens["expires_in"] == asker.world.vault.deployment.settings.tokens.access_lifetime, "it can ask again"
    claims = claims_of(tokens["access_token"])
    assert (claims["sub"], claims["client_id"]) == (asker.person.id, asker.client.id)
    assert (claims["scope"], claims["authorization_details"]) == ("openid tools", [PAYMENT])
    assert claims_of(tokens["id_token"])["aud"] == asker.client.id
    assert await asker.world.probe(tokens["access_token"]) == 200
    told = await asker.world.http.post(
        "/introspect", data={"client_id": asker.client.id, "client_secret": SECRET, "token": tokens["access_token"]}
    )
    assert told.json()["authorization_details"] == [PAYMENT]
    calls = {str(one.details["call"]) for kind in ("requested", "given", "consumed") for one in
             await asker.events(f"approval.{kind}")}  # fmt: skip
    assert len(calls) == 1, "one digest binds question, yes and token"
    activity = read(await asker.world.alice.open("/activity"))
    assert "You approved a request of Bakery bot" in activity
    assert "Bakery bot got the access that you approved" in activity


async def test_what_the_vault_offers_is_advertised(asker: Asker) -> None:
    found = (await asker.world.http.get("/.well-known/openid-configuration")).json()
    assert found["backchannel_authentication_endpoint"] == f"{asker.world.url}/bc-authorize"
    assert found["backchannel_token_delivery_modes_supported"] == ["poll", "ping", "push"]
    assert found["backchannel_user_code_parameter_supported"] is True
    assert BACKCHANNEL_GRANT in found["grant_types_supported"]


async def test_a_denial_and_the_end_are_told_and_nothing_is_issued(asker: Asker) -> None:
    denied = await asker.ask()
    await asker.answer("deny")
    for _ in range(2):
        answer = await asker.poll(denied)
        assert (answer.status_code, error_of(answer)) == (400, "access_denied")
    late = await asker.ask(requested_expiry="600")
    with asker.world.clock_ahead(600):
        assert error_of(await asker.poll(late)) == "expired_token"
        assert "Nothing to approve" in read(await asker.world.alice.open("/approvals"))
    with asker.world.clock_ahead(500):
        assert error_of(await asker.poll(late)) == "authorization_pending"
    assert await asker.events("grant.created") == []


async def test_a_yes_waits_until_the_announced_end_and_at_least_minutes(asker: Asker) -> None:
    brief, long = (
        await asker.ask_and_approve(requested_expiry="30"),
        await asker.ask_and_approve(requested_expiry="3000"),
    )
    with asker.world.clock_ahead(270):
        assert (await asker.poll(brief)).status_code == 200
    with asker.world.clock_ahead(2900):
        assert (await asker.poll(long)).status_code == 200
    missed = await asker.ask_and_approve(requested_expiry="30")
    with asker.world.clock_ahead(330):
        assert error_of(await asker.poll(missed)) == "expired_token"


async def test_of_many_polls_at_once_exactly_one_gets_a_token_and_later_ones_none(asker: Asker) -> None:
    auth_req_id = await asker.ask_and_approve()
    answers = await asyncio.gather(*(asker.poll(auth_req_id) for _ in range(8)))
    assert sorted(one.status_code for one in answers) == [200] + [400] * 7
    assert {error_of(one) for one in answers if one.status_code == 400} == {"invalid_grant"}
    assert error_of(await asker.poll(auth_req_id)) == "invalid_grant"
    assert len(await asker.events("grant.created")) == 1


async def test_polling_too_fast_is_told_for_how_long_to_wait(asker: Asker) -> None:
    auth_req_id = await asker.ask()
    assert error_of(await asker.poll(auth_req_id)) == "authorization_pending"
    hurried = await asker.poll(auth_req_id)
    assert (hurried.status_code, error_of(hurried)) == (400, "slow_down")
    assert (hurried.headers["retry-after"], hurried.json()["interval"]) == ("10", 10)
    with asker.world.clock_ahead(5):
        assert error_of(await asker.poll(auth_req_id)) == "authorization_pending"


async def test_another_client_gets_nothing_for_an_auth_req_id(asker: Asker) -> None:
    auth_req_id, other = await asker.ask_and_approve(), await asker.other()
    for wrong in (auth_req_id, "unknown", auth_req_id + "x"):
        assert error_of(await other.poll(wrong)) == "invalid_grant"
    assert (await asker.poll(auth_req_id)).status_code == 200


async def test_another_person_can_not_answer(asker: Asker) -> None:
    await asker.ask()
    path = (await asker.page()).url.path
    async with asker.world.vault.person() as other:
        await other.sign_in("alice", PASSWORD)
        assert (await other.open(path)).status_code == 403
    assert (await asker.world.alice.open(path)).status_code == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"grant_types": frozenset({"refresh_token"})},
        {"kind": ClientKind.DYNAMIC},
        {"auth_method": "none", "secret_hash": None},
    ],
    ids=["no grant", "by itself", "public"],
)
async def test_only_a_confidential_client_that_an_operator_allowed_may_ask(
    asker: Asker, changes: dict[str, object]
) -> None:
    other = await asker.other(**changes)
    secret = None if "secret_hash" in changes else SECRET
    assert error_of(await other.post({"client_secret": secret})) == "unauthorized_client"
    assert error_of(await asker.post({"client_secret": "wrong"})) == "invalid_client"
    assert (await asker.post()).status_code == 200


async def test_nobody_registers_by_themselves_for_it(asker: Asker) -> None:
    made = await asker.world.register(grant_types=["authorization_code", BACKCHANNEL_GRANT])
    assert made["grant_types"] == ["authorization_code"]


async def test_each_form_of_hint_names_the_person(asker: Asker) -> None:
    issuer, subject = asker.world.url, asker.person.id
    tokens = (await asker.poll(await asker.ask_and_approve())).json()
    for hint in (
        f'{{ "format": "iss_sub", "iss": "{issuer}/", "sub": "{subject}" }}',
        json.dumps({"format": "iss_sub", "iss": issuer, "sub": subject}, separators=(",", ":")),
        asker.person.name,
    ):
        assert (await asker.post({"login_hint": hint})).status_code == 200, hint
    answer = await asker.post({"login_hint": None, "id_token_hint": tokens["id_token"]})
    assert answer.status_code == 200, answer.text


async def test_hints_that_name_nobody_or_two_are_refused(asker: Asker) -> None:
    other = await asker.other()
    issued = (await asker.poll(await asker.ask_and_approve())).json()["id_token"]
    at = {"format": "iss_sub", "iss": asker.world.url, "sub": asker.person.id}
    for changes, error in (
        ({"login_hint": "nobody"}, "unknown_user_id"),
        ({"login_hint": json.dumps(at | {"iss": "https://other.example/"})}, "unknown_user_id"),
        ({"login_hint": json.dumps(at | {"format": "email"})}, "invalid_request"),
        *(({"login_hint": json.dumps(at | {"sub": wrong})}, "invalid_request") for wrong in (7, "", "a\0", None)),
        *(({"login_hint": json.dumps(at | {"iss": wrong})}, "invalid_request") for wrong in (7, None)),
        ({"login_hint": "{"}, "invalid_request"),
        ({"login_hint": None}, "invalid_request"),
        ({"id_token_hint": issued}, "invalid_request"),
        ({"login_hint": None, "login_hint_token": "a.b.c"}, "invalid_request"),
        ({"login_hint": None, "id_token_hint": "a.b.c"}, "invalid_request"),
    ):
        assert error_of(await asker.post(changes)) == error, changes
    assert error_of(await other.post({"login_hint": None, "id_token_hint": issued})) == "invalid_request"


async def test_whoever_can_not_sign_in_is_not_asked_and_gets_no_client_a_token(asker: Asker) -> None:
    auth_req_id = await asker.ask_and_approve()
    for is_disabled, status in ((True, 400), (False, 200)):
        async with asker.world.vault.deployment.transaction() as transaction:
            at = "update users set disabled_at = :at where id = :id"
            await transaction.execute(at, {"at": 1 if is_disabled else None, "id": asker.person.id})
        assert (await asker.post()).status_code == status
        assert (await asker.poll(auth_req_id)).status_code == status


async def test_each_fault_is_refused_and_the_same_request_without_it_is_not(asker: Asker) -> None:
    for name, value, error in (
        ("scope", "tools", "invalid_scope"),
        ("scope", None, "invalid_scope"),
        ("resource", "https://unknown.example", "invalid_target"),
        ("binding_message", "x" * 65, "invalid_binding_message"),
        ("binding_message", "two\nlines", "invalid_binding_message"),
        ("binding_message", "grüß", "invalid_binding_message"),
        ("requested_expiry", "0", "invalid_request"),
        ("requested_expiry", "259201", "invalid_request"),
        ("requested_expiry", "-5", "invalid_request"),
        ("request", "a.b.c", "request_not_supported"),
        ("authorization_details", "{}", "invalid_authorization_details"),
        ("authorization_details", "[]", "invalid_authorization_details"),
        ("authorization_details", '[{"type": "other"}]', "invalid_authorization_details"),
        ("authorization_details", '[{"type": "payment"}, 7]', "invalid_authorization_details"),
        ("authorization_details", '[{"type": "payment", "n": NaN}]', "invalid_authorization_details"),
        ("authorization_details", '[{"type": "payment", "n": 1e999}]', "invalid_authorization_details"),
        ("authorization_details", '[{"type": "payment", "n": "1", "n": "2"}]', "invalid_authorization_details"),
        ("authorization_details", nested_details(29), "invalid_authorization_details"),
        ("authorization_details", json.dumps([PAYMENT] * 11), "invalid_authorization_details"),
        ("authorization_details", json.dumps([PAYMENT]).ljust(8193), "invalid_authorization_details"),
    ):
        assert error_of(await asker.post({name: value})) == error, (name, value)
    unsayable = '[{"type": "payment", "n": 123456789012345678901}]'
    assert error_of(await asker.post({"authorization_details": unsayable})) == "invalid_authorization_details"
    honest = {"binding_message": "A b+c-d_e.f,g:h#i 9", "requested_expiry": "259200"}
    honest |= {"resource": f"{asker.world.url}/mcp", "authorization_details": '[{"type": "payment", "n": 7}]'}
    assert (await asker.post(honest)).status_code == 200
    asked = await asker.post({"authorization_details": nested_details(28)})
    assert (asked.status_code, asked.json()["expires_in"]) == (200, 300)
    with asker.world.clock_ahead(120):
        for details in ([PAYMENT] * 10, [PAYMENT]):
            assert (await asker.post({"authorization_details": json.dumps(details).ljust(8192)})).status_code == 200
    assert (await asker.world.alice.open("/approvals")).status_code == 200


@pytest.mark.parametrize(("metadata", "types"), [({}, "none"), ({DETAILS_TYPES: ["payment", "sale"]}, "payment, sale")])
async def test_a_wrong_type_of_details_is_answered_with_those_that_the_client_may_use(
    asker: Asker, metadata: dict[str, object], types: str
) -> None:
    other = await asker.other(metadata=metadata)
    refused = await other.post({"authorization_details": '[{"type": "other"}]'})
    assert refused.json()["error_description"] == f"each needs a type that this client may use: {types}"


async def test_the_admin_api_can_not_be_asked_for(asker: Asker) -> None:
    admin = admin_resource(asker.world.url)
    other = await asker.other(resources=(admin, f"{asker.world.url}/mcp"))
    assert error_of(await other.post({"resource": admin})) == "invalid_target"
    assert (await other.post({"resource": f"{asker.world.url}/mcp"})).status_code == 200


async def test_a_yes_for_an_api_is_worth_nothing_while_the_api_is_gone(asker: Asker) -> None:
    deployment, now, api = asker.world.vault.deployment, asker.world.now(), "https://passing.example/"
    async with deployment.transaction() as transaction:
        await apis.add_api(transaction, api, name="Passing", now=now)
    other = await asker.other(resources=(api,))
    asked = await other.ask_and_approve(resource=api)
    yes = await requests.find(deployment.database, deployment.keys, asked, client_id=other.client.id)
    assert yes is not None
    for is_there in (False, True):
        async with deployment.transaction() as transaction:
            if is_there:
                await apis.add_api(transaction, api, name="Passing", now=now)
            else:
                assert await apis.remove_api(transaction, api, now=now)
            issued = await ciba_grant.issue(deployment, transaction, yes, other.client, network="", now=now)
            assert (issued is not None) is is_there


async def test_a_token_is_for_the_resource_that_the_person_saw(asker: Asker) -> None:
    auth_req_id = await asker.ask_and_approve(resource=f"{asker.world.url}/mcp")
    other = await asker.poll(auth_req_id, resource=f"{asker.world.url}/sse")
    assert error_of(other) == "invalid_target"
    tokens = (await asker.poll(auth_req_id, resource=f"{asker.world.url}/mcp")).json()
    assert claims_of(tokens["access_token"])["aud"] == f"{asker.world.url}/mcp"


async def test_staying_signed_in_is_asked_for_and_never_with_details(asker: Asker) -> None:
    scope = "openid offline_access tools"
    tokens = (await asker.poll(await asker.ask_and_approve(scope=scope))).json()
    again = await asker.world.refresh(asker.client.id, tokens["refresh_token"], client_secret=SECRET)
    assert again.status_code == 200, again.text
    once = await asker.ask_and_approve(scope=scope, authorization_details=json.dumps([PAYMENT]))
    assert "refresh_token" not in (await asker.poll(once)).json()


async def test_a_token_is_bound_to_the_key_that_the_client_proves(asker: Asker) -> None:
    auth_req_id = await asker.ask_and_approve()
    shown = {"DPoP": proof(asker.world, "POST", "/token")}
    tokens = (await asker.poll(auth_req_id, headers=shown)).json()
    assert tokens["token_type"] == "DPoP"
    assert await asker.world.probe(tokens["access_token"]) == 401


async def test_floods_are_limited_by_person_and_client(asker: Asker) -> None:
    for _ in range(5):
        await asker.ask()
    refused = await asker.post()
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "60"
    assert refused.headers["x-ratelimit-limit"] == "5"
    assert int(refused.headers["x-ratelimit-reset"]) == asker.world.now() + 60
    assert (await asker.events("approval.refused"))[0].details["code"] == "rate_limited"
    other, guessing = await asker.other(), await asker.other()
    assert (await other.post()).status_code == 200, "another client has its own number"
    now, deployment = asker.world.now(), asker.world.vault.deployment
    for bucket, cost, window in ((f"ciba:person:{asker.person.id}", 13, 600), (f"ciba:{guessing.client.id}", 598, 60)):
        async with deployment.transaction() as transaction:
            assert await limits.spend(transaction, bucket, limit=600, window=window, now=now, cost=cost)
    assert (await other.post()).status_code == 200, "the 20th"
    together = await other.post()
    assert (together.status_code, together.headers["retry-after"]) == (429, "600"), "together they have one, too"
    for _ in range(2):
        assert error_of(await guessing.post({"login_hint": "nobody"})) == "unknown_user_id"
    assert (await guessing.post({"login_hint": "nobody"})).status_code == 429


async def test_whoever_denied_a_client_again_and_again_is_left_alone_for_an_hour(asker: Asker) -> None:
    for number in range(3):
        assert (await asker.post()).status_code == 200, number
        await asker.answer("deny")
    refused = await asker.post()
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "3600")
    assert (await (await asker.other()).post()).status_code == 200
    with asker.world.clock_ahead(3601):
        assert (await asker.post()).status_code == 200


async def test_cutting_the_client_off_ends_what_was_approved_and_not_used(asker: Asker) -> None:
    approved, kept = await asker.ask_and_approve(), await asker.other()
    kept_id = await kept.ask_and_approve()
    await asker.ask()
    assert (await asker.answer("cut_off")).status_code == 200
    assert error_of(await asker.poll(approved)) == "expired_token"
    assert (await kept.poll(kept_id)).status_code == 200


async def test_access_for_once_ends_with_its_token_and_the_persons_permissions_stay(asker: Asker) -> None:
    """It isn't listed as a sign-in afterward; what the agent may do with accounts is a separate matter."""
    deployment, person = asker.world.vault.deployment, asker.world.alice
    issued = await asker.poll(await asker.ask_and_approve())
    lasting = await asker.poll(await asker.ask_and_approve(scope="openid offline_access tools"))
    once, kept = (str(claims_of(one.json()["access_token"])["gid"]) for one in (issued, lasting))
    lifetime = deployment.settings.tokens.access_lifetime
    longest = 10 + 30 + 120 + 600 + 5 * 60  # seconds that a push can be late
    with asker.world.clock_ahead(lifetime + longest - 1):
        await sweep(deployment)
    assert await grants.live_principal_facts(deployment.database, once) is not None
    with asker.world.clock_ahead(lifetime + longest):
        await sweep(deployment)
    assert await grants.live_principal_facts(deployment.database, once) is None
    assert await grants.live_principal_facts(deployment.database, kept) is not None
    page = read(await person.open(f"/agents/{asker.client.id}"))
    assert "Its access token expired" in page
    assert await asker.events("grant.revoked") == []


async def test_no_one_gives_access_to_the_admin_api_on_another_device(asker: Asker) -> None:
    url = asker.world.url
    other = await asker.other(resources=(f"{url}/admin/v1", f"{url}/mcp"))
    for resource, error in ((f"{url}/admin/v1", "invalid_target"), (f"{url}/mcp", "")):
        answer = await other.post({"resource": resource, "scope": "openid admin:read tools"})
        assert (answer.status_code, error and error_of(answer)) == ((400, error) if error else (200, ""))
