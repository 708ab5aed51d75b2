"""Scopes of a developer's own API: requested with its resource, granted by the person, in its tokens only."""

from __future__ import annotations

import pytest

from server.oauth.clients.authentication import secret_hash
from server.oauth.rules import TOKEN_EXCHANGE
from tests.support.rooms.oauth_world import REDIRECT, World, claims_of, error_of, query_of
from vault import apis, clients, grants
from vault.records import Client, ClientKind

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]
API = "https://invoices.example/"


async def page(world: World, client_id: str, *resources: str) -> str:
    """A public client that may call these APIs."""
    now = world.now()
    async with world.vault.deployment.transaction() as transaction:
        await apis.add_api(transaction, API, name="Invoices", scopes=frozenset({"invoices.read"}), now=now)
        await clients.save_client(
            transaction,
            Client(client_id, ClientKind.MANUAL, "Page", "none", (REDIRECT,), now, resources=tuple(resources)),
        )
    return client_id


async def test_an_apis_scope_is_in_its_tokens(world: World) -> None:
    client_id = await page(world, "invoices-page", API)
    issued = await world.tokens(client_id, resource=API, scope="invoices.read openid made.up")
    assert issued["scope"] == "invoices.read openid"
    claims = claims_of(issued["access_token"])
    assert (claims["aud"], claims["scope"]) == (API, "invoices.read openid")
    less = await world.refresh(client_id, issued["refresh_token"], scope="invoices.read")
    assert less.json()["scope"] == "invoices.read"


@pytest.mark.parametrize("is_removed", [False, True])
async def test_a_code_for_an_api_ends_with_it(world: World, *, is_removed: bool) -> None:
    client_id, deployment = await page(world, f"removed-{is_removed}", API), world.vault.deployment
    code = await world.code(client_id, resource=API, scope="invoices.read")
    if is_removed:
        async with deployment.transaction() as transaction:
            assert await apis.remove_api(transaction, API, now=world.now())
    answer = await world.token(code.form())
    assert (answer.status_code, is_removed and error_of(answer)) == (
        (400, "invalid_target") if is_removed else (200, False)
    )
    assert (await grants.find_of_client(deployment.database, client_id, resource=API) is None) is is_removed


@pytest.mark.parametrize("is_removed", [False, True])
async def test_a_removed_api_is_refused_before_the_person_is_asked(world: World, *, is_removed: bool) -> None:
    other = f"{world.url}/mcp"
    client_id = await page(world, f"unnamed-{is_removed}", API, other)
    if is_removed:
        async with world.vault.deployment.transaction() as transaction:
            assert await apis.remove_api(transaction, API, now=world.now())
    answer = await world.ask(client_id, resource=None, scope="openid invoices.read")
    assert answer.headers["location"].startswith("/consent") is not is_removed
    assert query_of(answer.headers["location"]).get("error") == ("invalid_target" if is_removed else None)
    named = await world.ask(client_id, resource=other, scope="openid tools")
    assert named.headers["location"].startswith("/consent")


async def test_it_means_nothing_for_our_own_endpoints(world: World) -> None:
    client_id = await page(world, "tools-page")
    alone = await world.ask(client_id, scope="invoices.read")
    assert query_of(alone.headers["location"])["error"] == "invalid_scope"
    issued = await world.tokens(client_id, scope="invoices.read tools")
    assert issued["scope"] == "tools"


@pytest.mark.requirement("S-117")
async def test_what_makes_a_client_powerful_cannot_be_registered(world: World) -> None:
    made = await world.register(
        grant_types=["authorization_code", TOKEN_EXCHANGE],
        scope="tools exchange",
        release={"slack": "full"},
        worker={"addresses": ["0.0.0.0/0"], "connections": ["slack"], "scopes": ["chat:write"]},
        origins=["https://evil.example"],
        kind="manual",
        resources=[API],
    )
    assert not made.keys() & {"release", "worker", "origins", "kind", "resources"}
    assert made["scope"] == "exchange tools"
    stored = await clients.get_client(world.vault.deployment.database, str(made["client_id"]))
    assert stored is not None
    assert stored.kind is ClientKind.DYNAMIC
    assert not stored.metadata.keys() & {"release", "worker", "origins"}
    assert stored.resources == ()
    without = await world.register(scope="tools exchange")
    assert without["scope"] == "tools", "the scope comes with the grant only"


async def test_a_self_registered_page_gets_the_scope_with_the_grant(world: World) -> None:
    for grant_types, scope in ((["authorization_code", TOKEN_EXCHANGE], "exchange tools"), (None, "tools")):
        more = {} if grant_types is None else {"grant_types": grant_types}
        client_id = await world.public_client(**more)
        issued = await world.tokens(client_id, scope="tools exchange")
        assert issued["scope"] == scope


async def test_only_our_own_endpoints_stand_for_each_other(world: World) -> None:
    client_id, ours = await page(world, "either-page", API), f"{world.url}/mcp"
    code = await world.code(client_id, resource=None, scope="invoices.read")
    for other in (ours, f"{world.url}/sse", "https://other.example/"):
        assert error_of(await world.token(code.form(resource=other))) == "invalid_target"
    assert (await world.token(code.form(resource=API))).status_code == 200
    unbound = await page(world, "unbound-page")
    for named, resource, is_issued in (
        (None, f"{world.url}/sse", True),
        (ours, f"{world.url}/sse", False),
        (None, API, False),
    ):
        code = await world.code(unbound, resource=named, scope="tools")
        assert ((await world.token(code.form(resource=resource))).status_code == 200) is is_issued


async def _set_scopes(world: World, *scopes: str) -> None:
    async with world.vault.deployment.transaction() as transaction:
        await apis.add_api(transaction, API, name="Invoices", scopes=frozenset(scopes), now=world.now())


async def test_a_scope_that_was_taken_off_an_api_is_in_no_new_token_and_not_told_to_the_api(world: World) -> None:
    client_id, secret = await page(world, "narrower-page", API), "s" * 43
    await _set_scopes(world, "invoices.read", "invoices.write")
    async with world.vault.deployment.transaction() as transaction:
        server = Client(
            "invoices-server", ClientKind.MANUAL, "Invoices", "client_secret_post", (), world.now(),
            secret_hash=secret_hash(secret),
        )  # fmt: skip
        await clients.save_client(transaction, server)
        await apis.link_client(transaction, API, client_id=server.id, now=world.now())

    async def introspect(token: str) -> dict[str, object]:
        form = {"client_id": server.id, "client_secret": secret, "token": token}
        return (await world.http.post("/introspect", data=form)).json()

    issued = await world.tokens(client_id, resource=API, scope="invoices.read invoices.write openid")
    code = await world.code(client_id, resource=API, scope="invoices.read invoices.write")
    gone = await world.code(client_id, resource=API, scope="invoices.write")
    assert (await introspect(issued["access_token"]))["scope"] == "invoices.read invoices.write openid"
    await _set_scopes(world, "invoices.read")
    assert (await introspect(issued["access_token"]))["scope"] == "invoices.read openid"
    refreshed = (await world.refresh(client_id, issued["refresh_token"])).json()
    redeemed = (await world.token(code.form())).json()
    for answer, scope in ((refreshed, "invoices.read openid"), (redeemed, "invoices.read")):
        assert (answer["scope"], claims_of(answer["access_token"])["scope"]) == (scope, scope)
    assert error_of(await world.token(gone.form())) == "invalid_scope"
    await _set_scopes(world, "other")
    assert (await introspect(redeemed["access_token"])) == {"active": False}
    assert (await introspect(refreshed["access_token"]))["scope"] == "openid"
    assert error_of(await world.refresh(client_id, redeemed["refresh_token"])) == "invalid_scope"
    await _set_scopes(world, "invoices.read", "invoices.write")
    assert (await introspect(redeemed["access_token"]))["scope"] == "invoices.read"


async def test_a_request_refused_because_no_scope_is_left_uses_nothing_up(world: World) -> None:
    client_id = await page(world, "patient-page", API)
    await _set_scopes(world, "invoices.read", "invoices.write")
    first = await world.tokens(client_id, resource=API, scope="invoices.read invoices.write")
    code = await world.code(client_id, resource=API, scope="invoices.read")
    await _set_scopes(world, "other")
    assert error_of(await world.refresh(client_id, first["refresh_token"])) == "invalid_scope"
    assert error_of(await world.token(code.form())) == "invalid_scope"
    await _set_scopes(world, "invoices.read")
    assert error_of(await world.refresh(client_id, first["refresh_token"], scope="invoices.write")) == "invalid_scope"
    with world.clock_ahead(world.vault.deployment.refresh_lifetimes.grace + 1):  # a used token would be reuse
        again = await world.refresh(client_id, first["refresh_token"])
        assert (again.status_code, again.json().get("scope")) == (200, "invoices.read")
    redeemed = await world.token(code.form())
    assert (redeemed.status_code, redeemed.json().get("scope")) == (200, "invoices.read")
