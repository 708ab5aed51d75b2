"""Who may call through the proxy: handles, their keys and origins, and everything that ends them immediately."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

import httpx2
import pytest
from joserfc.jwk import ECKey

from server.oauth.dpop import token_hash
from server.proxy.call import ProxyRequest
from tests.support.accounts import revoke, set_ask
from tests.support.network.held_requests import held_json
from tests.support.rooms.oauth_world import sign_jwt
from tests.support.rooms.proxy_room import ALL, HOUR, POST, READ, ProxyHandle, ProxyRoom, post_reply, proxy_room
from vault import clients, connections, grants, groups, shared_connections, users
from vault.records import Connection
from vault.shared_connections import SharingRule

KEY, OTHER = ECKey.generate_key("P-256"), ECKey.generate_key("P-256")
PATH = "/conversations.list"


@pytest.fixture(scope="module")
async def shared_room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ProxyRoom]:
    async with proxy_room(tmp_path_factory.mktemp("handles")) as room:
        yield room


@pytest.fixture
def room(shared_room: ProxyRoom) -> ProxyRoom:
    shared_room.provider.arrivals.clear()
    shared_room.provider.answer = post_reply
    return shared_room


async def test_sdks_may_write_the_scheme_as_they_do(room: ProxyRoom) -> None:
    handle = await room.ready()
    for scheme in ("Bearer", "bearer", "token"):
        assert (await handle.call("GET", PATH, scheme=scheme)).status_code == 200
    for scheme in ("Basic", "DPoP", "Digest"):
        answer = await handle.call("GET", PATH, scheme=scheme)
        assert answer.status_code == 401, scheme
        assert answer.headers["www-authenticate"]
    assert len(room.provider.arrivals) == 3


async def test_no_call_without_exactly_one_handle(room: ProxyRoom) -> None:
    handle = await room.ready()
    access_token = handle.agent.token
    wrong = [
        [],
        [("authorization", "Bearer tvp_" + secrets.token_urlsafe(32))],
        [("authorization", f"Bearer {access_token}")],
        [("authorization", f"Bearer {handle.value}x")],
        [("authorization", f"Bearer {handle.value}")] * 2,
        [("cookie", f"authorization=Bearer {handle.value}")],
    ]
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        for headers in wrong:
            answer = await http.get(handle.base() + PATH, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
            assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        assert room.provider.arrivals == []
        right = await http.get(handle.base() + PATH, headers=[("authorization", f"Bearer {handle.value}")])
        assert right.status_code == 200


async def test_a_handle_ends_when_its_time_is_over(room: ProxyRoom) -> None:
    agent = await room.agent()
    connection = await room.account(agent)
    for lifetime, status in ((0, 401), (HOUR, 200)):
        handle = await room.handle(agent, connection, lifetime=lifetime)
        assert (await handle.call("GET", PATH)).status_code == status


async def cut_off(room: ProxyRoom, handle: ProxyHandle) -> None:
    async with room.vault.deployment.transaction() as transaction:
        await grants.revoke_grant(
            transaction, handle.agent.principal.grant_id, reason="user", now=room.vault.deployment.now()
        )


async def remove_client(room: ProxyRoom, handle: ProxyHandle) -> None:
    async with room.vault.deployment.transaction() as transaction:
        await clients.remove_client(transaction, handle.agent.principal.client_id, now=room.vault.deployment.now())


async def disconnect(room: ProxyRoom, handle: ProxyHandle) -> None:
    deployment = room.vault.deployment
    async with deployment.transaction() as transaction:
        await connections.disconnect(transaction, deployment.keys, handle.connection, now=deployment.now())


async def take_away(room: ProxyRoom, handle: ProxyHandle) -> None:
    principal = handle.agent.principal
    await revoke(room.vault.deployment, principal, handle.connection)


async def make_smaller(room: ProxyRoom, handle: ProxyHandle) -> None:
    await room.allow(handle.agent, handle.connection, POST)


async def disable(room: ProxyRoom, handle: ProxyHandle) -> None:
    async with room.vault.deployment.transaction() as transaction:
        await users.disable_user(transaction, handle.agent.principal.user_id, now=room.vault.deployment.now())


@pytest.mark.parametrize(
    ("end", "status", "code"),
    [
        (cut_off, 401, "invalid_grant"),
        (remove_client, 401, "invalid_grant"),
        (disable, 401, "invalid_grant"),
        (disconnect, 403, "connection_required"),
        (take_away, 403, "delegation_required"),
        (make_smaller, 403, "delegation_required"),
    ],
)
async def test_whatever_ends_an_agents_authority_ends_its_handles_at_once(
    room: ProxyRoom, end: Callable[[ProxyRoom, ProxyHandle], Awaitable[None]], status: int, code: str
) -> None:
    agent = await room.agent(f"person-{secrets.token_hex(4)}")
    handle = await room.handle(agent, await room.account(agent, name="T1:U7"))
    assert (await handle.call("GET", PATH)).status_code == 200
    await end(room, handle)
    answer = await handle.call("GET", PATH)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert len(room.provider.arrivals) == 1
    if status == 403:
        assert answer.json()["connect_uri"].startswith(room.url)
        client = await clients.get_client(room.vault.deployment.database, handle.agent.principal.client_id)
        assert client is not None
        assert client.name in answer.json()["title"]
    else:  # the code is ours, the challenge's is registered
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


async def do_nothing(_room: ProxyRoom, _handle: ProxyHandle) -> None:
    pass


@pytest.mark.parametrize(
    ("end", "status"), [(cut_off, 401), (remove_client, 401), (disconnect, 403), (take_away, 403), (do_nothing, 200)]
)
async def test_a_call_whose_body_arrives_after_its_authority_ended_is_not_made(
    room: ProxyRoom, end: Callable[[ProxyRoom, ProxyHandle], Awaitable[None]], status: int
) -> None:
    agent = await room.agent(f"person-{secrets.token_hex(4)}")
    handle = await room.handle(agent, await room.account(agent, name="T1:U8"))
    message = {"channel": "C1", "text": "hello"}
    assert (await handle.call(json=message)).status_code == 200  # the token is open now
    path = f"/proxy/{handle.connection.id}/web/chat.postMessage"
    async with held_json(room.url, path, message, token=handle.value) as held:
        await end(room, handle)
        answer = await held.finish()
    assert answer.status_code == status, answer.text
    assert len(room.provider.arrivals) == (2 if end is do_nothing else 1)


async def test_what_a_person_wants_to_be_asked_about_does_not_pass(room: ProxyRoom) -> None:
    handle = await room.ready()
    principal = handle.agent.principal
    for ask, status in ((frozenset({"chat:write"}), 403), (frozenset[str](), 200)):
        await set_ask(room.vault.deployment, principal, handle.connection, ask)
        answer = await handle.call(json={})
        assert answer.status_code == status, answer.text
    assert len(room.provider.arrivals) == 1


async def test_a_bigger_permission_makes_no_bigger_handle(room: ProxyRoom) -> None:
    agent = await room.agent()
    connection = await room.account(agent, delegated=READ)
    handle = await room.handle(agent, connection, scopes=READ)
    await room.allow(agent, connection, ALL)
    assert (await handle.call(json={})).json()["code"] == "scope_missing"
    wide = await room.handle(agent, connection, scopes=ALL)
    assert (await wide.call(json={})).status_code == 200


# Keys (RFC 9449)


def proof(handle: ProxyHandle, *, key: ECKey = KEY, method: str = "GET", url: str = "", **claims: object) -> str:
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": key.as_dict(private=False)}
    body: dict[str, object] = {
        "jti": secrets.token_urlsafe(12),
        "htm": method,
        "htu": url or handle.base() + PATH,
        "iat": handle.vault.deployment.now(),
        "ath": token_hash(handle.value),
    }
    return sign_jwt(header, body | claims, key)


async def issue_bound_handle(room: ProxyRoom) -> ProxyHandle:
    agent = await room.agent()
    connection = await room.account(agent)
    return await room.handle(agent, connection, key_thumbprint=KEY.thumbprint())


@pytest.mark.requirement("S-100")
async def test_a_bound_handle_works_with_a_fresh_proof_for_this_very_request(room: ProxyRoom) -> None:
    handle = await issue_bound_handle(room)
    answer = await handle.call("GET", PATH, scheme="DPoP", headers={"dpop": proof(handle)}, params={"limit": "5"})
    assert answer.status_code == 200
    assert "dpop" not in room.provider.arrivals[-1].headers
    public = room.vault.deployment.url(f"/proxy/{handle.connection.id}/web/chat.postMessage")
    posting = proof(handle, method="POST", url=public)
    assert (await handle.call(scheme="DPoP", headers={"dpop": posting}, json={})).status_code == 200


BAD: list[tuple[str, Mapping[str, object]]] = [
    ("method", {"method": "POST"}),
    ("path", {"url": "http://localhost/proxy/x/web/conversations.list"}),
    ("key", {"key": OTHER}),
    ("hash", {"ath": token_hash("another")}),
    ("too old", {"iat": 0}),
    ("no id", {"jti": ""}),
]


@pytest.mark.requirement("S-100")
@pytest.mark.parametrize("changes", [one[1] for one in BAD], ids=[one[0] for one in BAD])
async def test_a_proof_of_something_else_is_refused(room: ProxyRoom, changes: Mapping[str, object]) -> None:
    handle = await issue_bound_handle(room)
    refused = await handle.call("GET", PATH, scheme="DPoP", headers={"dpop": proof(handle, **changes)})
    assert refused.status_code == 401
    assert room.provider.arrivals == []
    assert (await handle.call("GET", PATH, scheme="DPoP", headers={"dpop": proof(handle)})).status_code == 200


@pytest.mark.requirement("S-100")
async def test_a_proof_counts_once_and_a_bound_handle_is_no_bearer_token(room: ProxyRoom) -> None:
    handle, unbound = await issue_bound_handle(room), await room.ready()
    sent = proof(handle)
    assert (await handle.call("GET", PATH, scheme="DPoP", headers={"dpop": sent})).status_code == 200
    again = await handle.call("GET", PATH, scheme="DPoP", headers={"dpop": sent})
    assert (again.status_code, again.json()["code"]) == (401, "invalid_dpop_proof")
    assert again.headers["www-authenticate"].startswith('DPoP error="invalid_dpop_proof", algs="')
    for scheme in ("Bearer", "token"):
        assert (await handle.call("GET", PATH, scheme=scheme, headers={"dpop": proof(handle)})).status_code == 401
    assert (await unbound.call("GET", PATH, scheme="DPoP", headers={"dpop": proof(unbound)})).status_code == 401
    assert (await unbound.call("GET", PATH)).status_code == 200


async def test_an_operator_may_demand_keys(shared_room: ProxyRoom, tmp_path_factory: pytest.TempPathFactory) -> None:
    async with proxy_room(tmp_path_factory.mktemp("keys"), tokens={"require_dpop": True}) as room:
        plain, handle = await room.ready(), await issue_bound_handle(room)
        assert (await plain.call("GET", PATH)).status_code == 401
        assert (await handle.call("GET", PATH, scheme="DPoP", headers={"dpop": proof(handle)})).status_code == 200


# Browser pages


async def test_a_page_of_the_clients_own_origin_may_call_and_read_and_others_may_not(room: ProxyRoom) -> None:
    handle = await room.ready()
    own = "http://127.0.0.1:5173"  # the client's redirect URI is on loopback
    answer = await handle.call("GET", PATH, headers={"origin": own})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == own
    assert "access-control-allow-credentials" not in answer.headers
    for origin in ("https://evil.example", "null", "https://127.0.0.1:5173"):
        refused = await handle.call("GET", PATH, headers={"origin": origin})
        assert (refused.status_code, refused.headers["token-vault-refusal"]) == (403, "origin_refused")
        assert "access-control-allow-origin" not in refused.headers
    assert len(room.provider.arrivals) == 1


async def test_a_refusal_of_ours_can_be_read_by_the_clients_page(room: ProxyRoom) -> None:
    handle = await room.ready()
    answer = await handle.call("GET", "/no.such.method", headers={"origin": "http://127.0.0.1:5173"})
    assert answer.status_code == 403
    assert answer.headers["access-control-allow-origin"] == "http://127.0.0.1:5173"
    assert answer.headers["access-control-expose-headers"] == "*"


async def test_a_preflight_names_methods_and_headers_and_never_credentials(room: ProxyRoom) -> None:
    handle = await room.ready()
    headers = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,dpop",
    }
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        answer = await http.options(handle.base() + "/chat.postMessage", headers=headers)
        assert answer.status_code == 204
        assert "POST" in answer.headers["access-control-allow-methods"]
        allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
        assert allowed >= {"authorization", "content-type", "dpop"}
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers["content-security-policy"] == "sandbox"
        assert answer.headers["x-content-type-options"] == "nosniff"
        bare = await http.options(handle.base() + "/chat.postMessage")
    assert bare.status_code == 401
    assert room.provider.arrivals == []


async def leave_group(room: ProxyRoom, handle: ProxyHandle, group: groups.Group) -> None:
    async with room.vault.deployment.transaction() as transaction:
        await groups.remove_member(transaction, group.id, handle.agent.principal.user_id, source="local")


async def give_again_for_less(room: ProxyRoom, handle: ProxyHandle, group: groups.Group) -> None:
    giver = await room.agent(f"person-{secrets.token_hex(4)}")
    await give(room, await room.account(giver, name="T1:U8"), group, rule=SharingRule(POST))


async def give(room: ProxyRoom, own: Connection, group: groups.Group, *, rule: SharingRule) -> Connection:
    deployment = room.vault.deployment
    async with deployment.transaction() as transaction:
        return await shared_connections.give(
            transaction, deployment.keys, own, group,
            rule=rule, by="x", policy=deployment.vault.policies[own.provider], now=deployment.now(),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "code"), [(leave_group, "connection_required"), (give_again_for_less, "delegation_required")]
)
async def test_what_a_group_takes_away_ends_with_the_next_call(
    room: ProxyRoom, change: Callable[[ProxyRoom, ProxyHandle, groups.Group], Awaitable[None]], code: str
) -> None:
    agent, deployment = await room.agent(f"person-{secrets.token_hex(4)}"), room.vault.deployment
    own = await room.account(agent, name="T1:U8")
    async with deployment.transaction() as transaction:
        group = await groups.create_group(transaction, secrets.token_hex(4), now=deployment.now())
        await groups.add_member(transaction, group.id, agent.principal.user_id, source="local", now=deployment.now())
    given = await give(room, own, group, rule=SharingRule(ALL))
    await room.allow(agent, given, ALL)
    handle = await room.handle(agent, given)
    for _ in range(2):
        assert (await handle.call("GET", PATH)).status_code == 200
    await change(room, handle, group)
    answer = await handle.call("GET", PATH)
    assert (answer.status_code, answer.json()["code"]) == (403, code)


def test_a_call_on_its_way_does_not_show_its_handle() -> None:
    async def do_nothing(*_: object) -> None: ...

    scope = {"type": "http", "path": "/proxy/c/web/x", "headers": [(b"authorization", b"Bearer tvp_secret")]}
    call = ProxyRequest(scope, do_nothing, do_nothing, fields={"authorization": "Bearer tvp_secret"}, started=0.0)  # pyright: ignore[reportArgumentType]
    assert "tvp_secret" in f"{call.scope} {call.fields}"
    assert "started=0.0" in repr(call)
    assert "tvp_secret" not in repr(call)
