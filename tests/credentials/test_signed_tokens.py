"""Private keys that people enter: service accounts, installations of an app, and tokens that are signed here.

The simulated service verifies each signature, audience, time, and scope, and records how each call authenticated.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from providers.simulator.state.keys import Signer
from server.administration import people
from server.administration.actor import Actor
from tests.support.doubles.scripted_server import json_reply, scripted_server
from tests.support.inspection import read_events
from tests.support.rooms.key_room import READ, WRITE, KeyRoom, running_key_room
from tests.support.rooms.portal_room import accounts_of
from vault import connections
from vault.exchange.exchange import ExchangeRequest, UpstreamToken, exchange
from vault.records import Connection, Narrowing, User
from vault.refusals import VaultError

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
EC_PUBLIC = EC_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
PEM = RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
PKCS8 = RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
SEALED_PEM = EC_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open sesame")).decode()
MAIL_READ, MAIL_WRITE = frozenset({"mail:read"}), frozenset({"mail:read", "mail:write"})


def key_file(room: KeyRoom, user: User, *, may_impersonate: frozenset[str] = frozenset()) -> str:
    """A key file of the service, as people download it."""
    kid, email = user.name.encode().hex()[:16].ljust(8, "0"), f"{user.name}@mailroom.example"
    room.simulator.sandbox.keys.signers[kid] = Signer(user.name, email, PUBLIC, may_impersonate)
    content = {"type": "service_account", "client_email": email, "private_key_id": kid, "private_key": PEM}
    return json.dumps({**content, "token_uri": "https://elsewhere.example/token"}, indent=2)


def app_values(room: KeyRoom, user: User, app_id: str, **changes: str) -> dict[str, str]:
    room.simulator.sandbox.keys.signers[app_id] = Signer(user.name, app_id, PUBLIC, installation="77")
    return {"app_id": app_id, "installation_id": "77", "private_key": PEM, **changes}


def signed_values(room: KeyRoom, user: User, key_id: str, **changes: str) -> dict[str, str]:
    room.simulator.sandbox.keys.signers[key_id] = Signer(user.name, "ISSUER", EC_PUBLIC)
    values = {"key_id": key_id, "issuer": "issuer", "private_key": SEALED_PEM, "passphrase": "open sesame"}
    return {**values, **changes}


async def exchange_token(
    room: KeyRoom, user: User, connection: Connection, scopes: frozenset[str], *, item: str | None = None
) -> UpstreamToken:
    handle = await room.allow_agent(user, connection, scopes)
    request = ExchangeRequest(
        handle.agent.principal, connection.provider, scopes, connection_id=connection.id, item=item, purpose="test"
    )
    return await exchange(request, vault=room.deployment.vault, now=room.deployment.now())


async def test_a_service_account_gets_a_token_for_exactly_the_scopes_of_each_exchange(room: KeyRoom) -> None:
    user = await room.user()
    connection = await room.connect_account(
        user, await room.signed_in(user), "mailroom-service", key_file=key_file(room, user)
    )
    assert (connection.account, connection.has_refresh_token) == (f"{user.name}@mailroom.example", True)
    keys = room.simulator.sandbox.keys
    for scopes in (READ, frozenset({"write"}), WRITE):
        token = await exchange_token(room, user, connection, scopes)
        assert (token.narrowing, keys.scopes[token.value]) == (Narrowing.UPSTREAM, scopes)
        again = await exchange_token(room, user, connection, scopes)
        assert again.value == token.value  # cached per scopes
    handle = await room.allow_agent(user, connection, READ)
    answer = await handle.call("GET", "/messages", api="main")
    assert (answer.status_code, answer.json()["messages"][0]["subject"]) == (200, f"For {user.name}")
    refused = await handle.call("POST", "/messages", api="main", json={"to": "bob"})
    assert (refused.status_code, refused.headers["token-vault-refusal"]) == (403, "scope_missing")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"private_key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}, "private key that works"),
        ({"private_key": SEALED_PEM}, "private key that works"),
        ({"client_email": "root@elsewhere.example"}, "in the format of: Key file"),
        ({"private_key_id": "ffffffff"}, "accept this"),
    ],
)
async def test_only_a_key_file_that_the_service_knows_connects(
    room: KeyRoom, changes: dict[str, str], said: str
) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    file = json.dumps({**json.loads(key_file(room, user)), **changes})
    answer = await room.enter(person, await room.form(person, "mailroom-service"), key_file=file)
    assert said in answer.text
    assert "BEGIN" not in answer.text
    assert len(await accounts_of(room, user)) == int(not changes)


async def test_only_admins_act_for_others_in_their_domain(room: KeyRoom) -> None:
    user, admin = await room.user(), await room.vault.add_user("chief", is_admin=True)
    person, chief = await room.signed_in(user), await room.signed_in(admin)
    page = await room.form(person, "mailroom-service")
    assert "Person to act for" not in page.text
    assert "A private key never leaves the vault" in page.text
    file = key_file(room, user, may_impersonate=READ)
    refused = await room.enter(person, page, key_file=file, subject="carol")
    assert "Only admins can enter this: Person to act for" in refused.text
    shown = await room.form(chief, "mailroom-service")
    assert "Person to act for" in shown.text
    connection = await room.connect_account(
        admin, chief, "mailroom-service", key_file=key_file(room, admin, may_impersonate=READ), subject="carol"
    )
    token = await exchange_token(room, admin, connection, READ)
    assert room.simulator.sandbox.keys.tokens[token.value] == "carol"
    refused_scope = await exchange_token(
        room, admin, connection, frozenset({"write"})
    )  # refused for that scope only; the account stays
    assert refused_scope.narrowing is Narrowing.ENFORCED
    found = await connections.get_connection(room.deployment.database, connection.id, user_id=admin.id)
    assert found is not None and found.status(room.deployment.now()) == "active"


async def test_a_key_file_for_another_person_is_another_account(room: KeyRoom) -> None:
    admin = await room.vault.add_user("boss", is_admin=True)
    boss, may = await room.signed_in(admin), frozenset({"read", "write"})
    file = key_file(room, admin, may_impersonate=may)
    first = await room.connect_account(admin, boss, "mailroom-service", key_file=file, subject="alice")
    second = await room.connect_account(admin, boss, "mailroom-service", key_file=file, subject="carol")
    plain = await room.connect_account(admin, boss, "mailroom-service", key_file=file)
    email = "boss@mailroom.example"
    assert [one.account for one in (first, second, plain)] == [f"{email} alice", f"{email} carol", email]
    assert [one.label for one in (first, second, plain)] == [f"alice {email}", f"carol {email}", email]
    keys = room.simulator.sandbox.keys
    for connection, person in ((first, "alice"), (second, "carol"), (plain, "boss")):
        assert keys.tokens[(await exchange_token(room, admin, connection, READ)).value] == person
    page = await boss.submit(await boss.open(f"/connections/{first.id}"), form="/reconnect")
    for subject, is_same in (("carol", False), ("alice", True)):
        answer = await room.enter(boss, page, key_file=file, subject=subject)
        assert ("another account" in answer.text) is not is_same
        page = answer


async def test_a_person_who_is_no_admin_is_told_who_may_replace_a_key_that_acts_for_another(room: KeyRoom) -> None:
    admin = await room.vault.add_user("former", is_admin=True)
    former, may = await room.signed_in(admin), frozenset({"read"})
    file = key_file(room, admin, may_impersonate=may)
    acting = await room.connect_account(admin, former, "mailroom-service", key_file=file, subject="alice")
    plain = await room.connect_account(admin, former, "mailroom-service", key_file=file)
    await people.set_admin(Actor(room.deployment, None, "command_line"), admin, is_admin=False)
    for connection, is_refused in ((acting, True), (plain, False)):
        page = await former.submit(await former.open(f"/connections/{connection.id}"), form="/reconnect")
        answer = await room.enter(former, page, key_file=file)
        assert ("only admins can change that person: Person to act for" in answer.text) is is_refused
        assert "another account" not in answer.text


async def test_a_key_that_may_act_with_other_scopes_only_is_connected_and_kept(room: KeyRoom) -> None:
    admin = await room.vault.add_user("head", is_admin=True)
    head, keys = await room.signed_in(admin), room.simulator.sandbox.keys
    file = key_file(room, admin, may_impersonate=frozenset({"write"}))  # the file's default is to read
    unknown = json.dumps({**json.loads(file), "private_key_id": "eeeeeeee"})
    refused = await room.enter(head, await room.form(head, "mailroom-service"), key_file=unknown, subject="carol")
    assert "accept this" in refused.text
    connection = await room.connect_account(admin, head, "mailroom-service", key_file=file, subject="carol")
    token = await exchange_token(room, admin, connection, frozenset({"write"}))
    assert (keys.tokens[token.value], keys.scopes[token.value]) == ("carol", {"write"})
    with pytest.raises(VaultError):
        await exchange_token(room, admin, connection, READ)  # no other token is handed out, such as the vault's own
    found = await connections.get_connection(room.deployment.database, connection.id, user_id=admin.id)
    assert found is not None and found.status(room.deployment.now()) == "active"


async def test_snowflake_s_look_up_of_no_statement_proves_a_key(room: KeyRoom, tmp_path: Path) -> None:
    says = [401, 418, 400, 404, 422]
    async with scripted_server(lambda _: json_reply({"message": "no"}, status=says.pop(0))) as server:
        more = {"snowflake-key-pair": {"inputs": {"account": "myorg-acme"}, "apis": {"sql": f"{server.url}/api/v2"}}}
        async with running_key_room(tmp_path, more=more) as other:
            user = await other.user()
            person = await other.signed_in(user)
            values = {"user": "AGENT", "private_key": PKCS8, "label": "Warehouse"}
            for said in ("accept this", "confirm that this works"):
                page = await other.form(person, "snowflake-key-pair")
                assert said in (await other.enter(person, page, **values)).text
            while says:
                page = await other.enter(person, await other.form(person, "snowflake-key-pair"), **values)
                assert "/connect/done/" in str(page.url), page.text
            assert len(server.arrivals) == 5


async def test_a_deleted_key_ends_the_connection_and_a_wrong_clock_does_not(room: KeyRoom) -> None:
    user = await room.user()
    connection = await room.connect_account(
        user, await room.signed_in(user), "mailroom-service", key_file=key_file(room, user)
    )
    keys = room.simulator.sandbox.keys
    handle = await room.allow_agent(user, connection, READ)
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200
    kept = {kid: one for kid, one in keys.signers.items() if one.account == user.name}
    for kid in kept:
        keys.signers.pop(kid)
    keys.tokens.clear()
    answer = await handle.call("GET", "/messages", api="main")
    assert answer.headers["token-vault-refusal"] == "connection_required"
    found = await connections.get_connection(room.deployment.database, connection.id, user_id=user.id)
    assert found is not None and found.status(room.deployment.now()) == "needs_reauth"


async def test_an_app_gets_tokens_with_the_permissions_and_repositories_that_were_asked_for(room: KeyRoom) -> None:
    user = await room.user()
    values = app_values(room, user, "1001")
    connection = await room.connect_account(user, await room.signed_in(user), "mailroom-app", **values)
    keys = room.simulator.sandbox.keys
    narrow = await exchange_token(room, user, connection, MAIL_READ)
    assert (narrow.narrowing, keys.scopes[narrow.value]) == (Narrowing.UPSTREAM, READ)
    base = room.deployment.catalog.provider("mailroom-app").apis["main"]
    one = await exchange_token(room, user, connection, MAIL_READ, item=f"{base}/boxes/{user.name}/inbox")
    assert one.value != narrow.value
    asked = [json.loads(str(book["asked"])) for book in room.books() if book["call"] == "installation"]
    assert asked[-2:] == [
        {"permissions": {"mail": "read"}},
        {"permissions": {"mail": "read"}, "repositories": ["inbox"]},
    ]
    handle = await room.allow_agent(user, connection, MAIL_WRITE)
    assert (await handle.call("POST", "/messages", api="main", json={"to": "bob"})).json()["to"] == "bob"


async def test_an_app_without_a_permission_is_not_said_to_have_it(room: KeyRoom) -> None:
    user = await room.user()
    values = app_values(room, user, "1002")
    room.simulator.sandbox.keys.signers["1002"].permissions["mail"] = "read"
    connection = await room.connect_account(user, await room.signed_in(user), "mailroom-app", **values)
    assert connection.scopes == MAIL_READ
    other = await room.user()
    whole = await room.connect_account(
        other, await room.signed_in(other), "mailroom-app", **app_values(room, other, "1003")
    )
    assert whole.scopes == MAIL_WRITE


async def test_a_signed_token_is_sent_as_it_is_and_lists_what_it_may_do(room: KeyRoom) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    page = await room.form(person, "mailroom-signed")
    refused = await room.enter(person, page, **signed_values(room, user, "KEY00001", passphrase="open barley"))
    assert "private key that works here" in refused.text
    connection = await room.connect_account(user, person, "mailroom-signed", **signed_values(room, user, "KEY00001"))
    handle = await room.allow_agent(user, connection, READ)
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200
    assert room.books()[-1]["way"] == "signed"
    assert (await handle.call("GET", "/echo", api="main")).status_code == 403  # not among its operations
    narrow = await exchange_token(room, user, connection, READ)
    whole = await exchange_token(room, user, connection, WRITE)  # a scope without operations is enforced by the rules
    assert (narrow.narrowing, whole.narrowing) == (Narrowing.UPSTREAM, Narrowing.ENFORCED)


async def test_a_dead_key_of_signed_tokens_is_noticed_at_the_next_token(room: KeyRoom) -> None:
    user = await room.user()
    connection = await room.connect_account(
        user, await room.signed_in(user), "mailroom-signed", **signed_values(room, user, "KEY00002")
    )
    handle = await room.allow_agent(user, connection, READ)
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200
    room.simulator.sandbox.keys.signers.pop("KEY00002")
    answer = await handle.call("GET", "/messages", api="main")
    assert answer.headers["token-vault-refusal"] == "connection_required"


async def test_the_end_of_a_key_stays_whatever_tokens_it_gets(room: KeyRoom) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    ends = datetime.fromtimestamp(room.deployment.now() + 40 * 86400, UTC).date().isoformat()
    connection = await room.connect_account(user, person, "mailroom-service", key_file=key_file(room, user), ends=ends)
    await exchange_token(room, user, connection, READ)
    room.simulator.sandbox.keys.tokens.clear()
    handle = await room.allow_agent(user, connection, READ)
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200
    found = await connections.get_connection(room.deployment.database, connection.id, user_id=user.id)
    assert found is not None and found.ends_at == connection.ends_at
    assert connection.ends_at is not None
    assert datetime.fromtimestamp(connection.ends_at, UTC).date().isoformat() == ends


async def test_a_private_key_is_in_no_event_page_or_repr(room: KeyRoom) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    connection = await room.connect_account(user, person, "mailroom-service", key_file=key_file(room, user))
    await exchange_token(room, user, connection, READ)
    events = await read_events(room.deployment, user_id=user.id)
    written = json.dumps([dict(one.details) for one in events], default=str)
    page = await person.open(f"/connections/{connection.id}")
    secret = PEM.splitlines()[3]
    assert "connection.opened" in {one.kind for one in events}
    assert secret not in written + page.text + repr(connection)
