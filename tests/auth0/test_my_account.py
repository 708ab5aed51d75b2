"""The My Account API: connect, complete, list, disconnect, and refusals."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

import providers
from providers.simulator.person import consent
from server.auth0.names import names_of, provider_of
from server.connecting.app_returns import AppReturn, issue_code
from tests.auth0.application import CALLBACK, VERIFIER, Application, running_application
from tests.conftest import Store
from tests.support.harness import running_vault
from tests.support.inspection import unstorable
from tests.support.network.held_requests import held_json
from tests.support.rooms.portal_room import CHALLENGE, Room, accounts_of, query_of, running_room
from vault import apis, delegations, grants
from vault.records import ClientKind

EXAMPLES = Path(providers.__file__).parent / "examples" / "providers"
CREATE, READ, DELETE = (f"{verb}:me:connected_accounts" for verb in ("create", "read", "delete"))


async def test_an_account_is_connected_listed_and_disconnected(application: Application) -> None:
    started = await application.start()
    assert started.status_code == 201
    content = started.json()
    assert set(content) == {"auth_session", "connect_uri", "connect_params", "expires_in"}
    back = await application.to_return(started)
    assert urlsplit(back)._replace(query="").geturl() == CALLBACK
    assert query_of(back)["state"] == "connect-state"
    body = {
        "auth_session": content["auth_session"],
        "connect_code": query_of(back)["connect_code"],
        "redirect_uri": CALLBACK,
    }
    completed = await application.me("POST", "complete", json=body)
    assert completed.status_code == 201
    account = completed.json()
    assert account["id"].startswith("cac_")
    assert (account["connection"], account["access_type"]) == ("sign-in-with-slack", "offline")
    again = await application.me("POST", "complete", json=body)
    assert (again.status_code, again.json()["detail"]) == (404, "Invalid or expired session")
    listed = (await application.me("GET", "accounts")).json()
    assert [one["id"] for one in listed["accounts"]] == [account["id"]]
    gone = await application.me("DELETE", f"accounts/{account['id']}")
    assert (gone.status_code, gone.content) == (204, b"")
    story = re.sub(r"<[^>]+>", "", (await application.person.open("/activity")).text)
    assert "Assistant disconnected" in story
    assert "You disconnected" not in story
    assert (await application.me("GET", "accounts")).json() == {"accounts": []}
    assert (await application.account_token()).json()["error"] == "federated_connection_refresh_token_not_found"
    assert (await application.me("DELETE", f"accounts/{account['id']}")).status_code == 404


async def test_a_list_is_walked_page_by_page_with_either_cursor(application: Application) -> None:
    for account in ("alice", "bob", "carol"):
        await application.connect(account=account)
    token = await application.me_token()
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for name in ("from", "next", "from"):
        page = (await application.me("GET", "accounts", token=token, params={"take": "1", **cursor})).json()
        seen += [one["id"] for one in page["accounts"]]
        if "next" not in page:
            break
        cursor = {name: page["next"]}
    assert len(seen) == len(set(seen)) == 3
    none = await application.me("GET", "accounts", token=token, params={"connection": "google-oauth2"})
    assert none.json() == {"accounts": []}
    for wrong in ({"take": "0"}, {"take": "21"}, {"take": "x"}, {"from": "nowhere"}):
        assert (await application.me("GET", "accounts", token=token, params=wrong)).status_code == 400


async def test_the_connections_have_auth0s_names(application: Application) -> None:
    listed = (await application.me("GET", "connections", params={"take": "20"})).json()["connections"]
    names = {one["name"] for one in listed}
    assert "google-oauth2" in names
    assert "google" not in names


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"connection": "nobody-knows"}, 404),
        ({"connection": None}, 400),
        ({"connection": "x" * 129}, 400),
        ({"redirect_uri": "https://evil.example/"}, 400),
        ({"state": "x" * 4097}, 400),
        ({"scopes": ["chat:write", "chat:write"]}, 400),
        ({"scopes": ["no:such"]}, 400),
        ({"scopes": "chat:write"}, 400),
        ({"code_challenge": "short", "code_challenge_method": "S256"}, 400),
        ({"unknown": 1}, 400),
    ],
)
async def test_a_start_that_does_not_fit_is_a_problem_with_its_fields(
    application: Application, changes: dict[str, object], status: int
) -> None:
    refused = await application.start(**changes)
    assert refused.status_code == status, refused.text
    problem = refused.json()
    assert problem["type"].startswith(f"https://auth0.com/api-errors/A0E-{status}-")
    assert {"type", "status", "title", "detail"} <= set(problem)
    assert ("validation_errors" in problem) == (status == 400)
    assert (await application.start(scopes=["chat:write"], authorization_params={})).status_code == 201


async def test_a_code_works_only_for_its_session_verifier_address_and_client(
    room: Room, application: Application
) -> None:
    started = await application.start(code_challenge=CHALLENGE, code_challenge_method="S256")
    other_session = (await application.start()).json()["auth_session"]
    code = query_of(await application.to_return(started))["connect_code"]
    honest = {
        "auth_session": started.json()["auth_session"],
        "connect_code": code,
        "redirect_uri": CALLBACK,
        "code_verifier": VERIFIER,
    }
    wrong: tuple[dict[str, str | None], ...] = (
        {"auth_session": other_session},
        {"code_verifier": "x" * 43},
        {"code_verifier": None},
        {"redirect_uri": CALLBACK + "/other"},
        {"connect_code": "unknown"},
    )
    for changes in wrong:
        body = {name: value for name, value in (honest | changes).items() if value is not None}
        assert (await application.me("POST", "complete", json=body)).status_code == 404, changes
    other = await Application.register(room, application.http)
    await other.sign_in()
    assert (await other.me("POST", "complete", json=honest)).status_code == 404
    assert (await application.me("POST", "complete", json=honest)).status_code == 201


@pytest.mark.parametrize("provider", ["slack", "unrelated"])
async def test_a_code_whose_account_could_not_be_named_completes_later(store: Store, provider: str) -> None:
    async with running_application(store) as application:
        started = await application.start()
        code = query_of(await application.to_return(started))["connect_code"]
        body = {"auth_session": started.json()["auth_session"], "connect_code": code, "redirect_uri": CALLBACK}
        database = application.room.deployment.database
        async with unstorable(database, "connections", "provider", provider, is_sqlite=store.is_sqlite):
            completed = await application.me("POST", "complete", json=body)
        if provider == "slack":
            assert completed.status_code >= 500
            completed = await application.me("POST", "complete", json=body)
        assert (completed.status_code, completed.json()["connection"]) == (201, "sign-in-with-slack")
        assert (await application.me("POST", "complete", json=body)).status_code == 404


async def test_a_ticket_in_another_persons_browser_connects_nothing(room: Room, application: Application) -> None:
    stranger = await room.signed_in(await room.user())
    content = (await application.start()).json()
    page = await stranger.open(f"{content['connect_uri']}?ticket={content['connect_params']['ticket']}")
    assert page.status_code == 403
    assert "nothing was connected" in page.text


async def test_a_person_who_refuses_is_brought_back_with_the_error(application: Application) -> None:
    content = (await application.start()).json()
    page = await application.person.open(f"{content['connect_uri']}?ticket={content['connect_params']['ticket']}")
    answer = await application.person.submit(page, form="/connect/", button=("decision", "deny"))
    assert query_of(answer.headers["location"]) == {"error": "access_denied", "state": "connect-state"}


async def test_a_person_who_refuses_at_the_provider_is_brought_back_with_the_error(application: Application) -> None:
    content = (await application.start()).json()
    page = await application.person.open(f"{content['connect_uri']}?ticket={content['connect_params']['ticket']}")
    there = await application.person.submit(page, form="/connect/", button=("decision", "allow"))
    answer = await application.person.open(await consent(there.headers["location"], allow=False))
    assert urlsplit(answer.headers["location"])._replace(query="").geturl() == CALLBACK
    told = query_of(answer.headers["location"])
    assert (told["error"], told["state"]) == ("access_denied", "connect-state")
    assert told["error_description"].startswith("Slack refused")
    assert await application.connect(), "the twin"


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [("POST", "connect", CREATE), ("POST", "complete", CREATE), ("GET", "accounts", READ),
     ("GET", "connections", READ), ("DELETE", "accounts/cac_x", DELETE)],
)  # fmt: skip
async def test_each_call_needs_its_scope_and_a_token_of_this_api(
    application: Application, method: str, path: str, scope: str
) -> None:
    others = " ".join({CREATE, READ, DELETE} - {scope})
    refused = await application.me(method, path, token=await application.me_token(others), json={})
    assert refused.status_code == 403
    assert scope in refused.json()["detail"]
    foreign = await application.me(method, path, token=str(application.tokens["access_token"]), json={})
    assert (foreign.status_code, foreign.json()["detail"]) == (401, "Invalid Token")
    admitted = await application.me(method, path, token=await application.me_token(scope), json={})
    assert admitted.status_code not in {401, 403}


async def test_two_applications_see_only_the_accounts_that_the_person_lets_them_use(
    room: Room, application: Application
) -> None:
    account = await application.connect()
    other = await Application.register(room, application.http)
    other.user, other.person = application.user, application.person
    await other.sign_in()
    assert (await other.me("GET", "accounts")).json() == {"accounts": []}
    assert (await other.me("DELETE", f"accounts/{account['id']}")).status_code == 404
    assert len((await application.me("GET", "accounts")).json()["accounts"]) == 1


SHOWN = ("google-oauth2", "windowslive", "sign-in-with-slack")  # the names to show if several stand for one provider


@pytest.mark.parametrize(
    "name",
    [
        "google-oauth2",
        "google-apps",
        "windowslive",
        "waad",
        "github",
        "bitbucket",
        "slack",
        "box",
        "dropbox",
        "basecamp",
        "figma",
        "digitalocean",
        "hugging-face",
        "salesforce",
        "amazon",
        "discord",
        "fitbit",
        "freshbooks",
        "paypal",
        "snapchat",
        "spotify",
        "stripe-connect",
        "tumblr",
        "twitch",
        "twitter",
    ],
)
def test_every_connection_of_auth0s_vault_has_a_provider_here(room: Room, name: str) -> None:
    provider = provider_of(room.deployment, name)
    assert provider is not None
    assert set(names_of(room.deployment, provider.name)) <= {name, *SHOWN}


async def test_an_operators_own_name_of_a_connection_leads_to_its_provider(tmp_path: Path) -> None:
    overrides = {"auth0": {"enabled": True, "connections": {"work-slack": "slack"}}}
    async with running_vault(tmp_path / "data", overrides=overrides) as vault:
        found = provider_of(vault.deployment, "work-slack")
        assert found is not None
        assert (found.name, names_of(vault.deployment, "slack")) == ("slack", ["work-slack"])


async def test_an_account_is_called_what_the_application_calls_its_connection(
    tmp_path: Path,
) -> None:
    names = {"team-slack": "slack", "sales-slack": "slack"}
    overrides = {"auth0": {"enabled": True, "connections": names}, "server": {"issuer_slash": True}}
    async with (
        running_room(tmp_path / "data", overrides=overrides) as own,
        httpx2.AsyncClient(base_url=own.url, timeout=20, trust_env=False) as http,
    ):
        application = await Application.register(own, http)
        await application.sign_in()
        assert (await application.connect("sales-slack"))["connection"] == "sales-slack"
        for query, shown in (
            ("", "sales-slack"),
            ("?connection=team-slack", "team-slack"),
            ("?connection=team-slack&connection=sales-slack", "sales-slack"),
            ("?connection=slack", "slack"),
            ("?connection=google-oauth2", None),
        ):
            listed = (await application.me("GET", f"accounts{query}")).json()["accounts"]
            assert [one["connection"] for one in listed] == ([] if shown is None else [shown]), query
        known = (await application.me("GET", "connections?take=20")).json()["connections"]
        by_name = {one["name"]: one["strategy"] for one in known}
        assert {by_name[name] for name in names} == {"sign-in-with-slack"}
        assert by_name["google-oauth2"] == "google-oauth2"
        for name in names:
            answer = await application.account_token({"connection": name})
            assert answer.status_code == 200, answer.text


async def test_an_applications_own_api_gets_what_the_person_lets_the_application_have(
    room: Room, application: Application
) -> None:
    deployment, database = room.deployment, room.deployment.database
    api = f"https://{application.client.id}.example/api"
    service = await room.agent(kind=ClientKind.MANUAL, name="Orders API")
    async with deployment.transaction() as transaction:
        await apis.add_api(transaction, api, name="Orders", now=deployment.now())
        await apis.link_client(transaction, api, client_id=service.id, now=deployment.now())
    owner = await Application.register(room, application.http, resources=(api,))
    await owner.sign_in()
    content = (await owner.start()).json()
    page = await owner.person.open(f"{content['connect_uri']}?ticket={content['connect_params']['ticket']}")
    assert "Orders API" in page.text
    await owner.connect()
    (account,) = await accounts_of(room, owner.user)
    which = {"user_id": owner.user.id, "connection_id": account.id}
    held = await delegations.get(database, client_id=owner.client.id, **which)
    given = await delegations.get(database, client_id=service.id, **which)
    assert held is not None
    assert given is not None
    assert given.scopes == held.scopes

    back = AppReturn(CALLBACK, None, "", services=((await room.agent()).id,))
    for is_over in (True, False):
        async with deployment.transaction() as transaction:
            if is_over:
                await delegations.revoke(transaction, client_id=owner.client.id, now=deployment.now(), **which)
            else:
                await delegations.allow(
                    transaction, client_id=owner.client.id, scopes=held.scopes, now=deployment.now(), **which
                )
        await issue_code(deployment, back, connection=account, client_id=owner.client.id, is_allowed=True)
        found = await delegations.get(database, client_id=back.services[0], **which)
        assert (found is None) is is_over


async def test_an_application_gets_its_code_also_for_an_api_of_the_operators_own(tmp_path: Path) -> None:
    """The person agrees on our own page, which leads back as a provider's does."""
    folder = tmp_path / "data" / "providers"
    folder.mkdir(parents=True)
    (folder / "brokerage.toml").write_text((EXAMPLES / "brokerage.toml").read_text())
    overrides = {"auth0": {"enabled": True}, "server": {"issuer_slash": True}}
    async with (
        running_room(tmp_path / "data", overrides=overrides) as own,
        httpx2.AsyncClient(base_url=own.url, timeout=20, trust_env=False) as http,
    ):
        application = await Application.register(own, http)
        await application.sign_in()
        started = (await application.start(connection="brokerage")).json()
        page = await application.person.open(f"{started['connect_uri']}?ticket={started['connect_params']['ticket']}")
        answer = await application.person.submit(
            page, {"account": "new", "level.asked": "read"}, form="/connect/", button=("decision", "allow")
        )
        back = query_of(answer.headers["location"])
        assert back["state"] == "connect-state"
        body = {
            "auth_session": started["auth_session"],
            "connect_code": back["connect_code"],
            "redirect_uri": CALLBACK,
        }
        completed = await application.me("POST", "complete", json=body)
        assert (completed.status_code, completed.json()["connection"]) == (201, "brokerage")


@pytest.mark.parametrize("has_ended", [True, False])
async def test_a_request_that_arrives_after_its_grant_ended_starts_nothing(
    application: Application, has_ended: bool
) -> None:
    token, deployment = await application.me_token(), application.room.deployment
    body = {"connection": "sign-in-with-slack", "redirect_uri": CALLBACK, "state": "connect-state"}
    path = "/me/v1/connected-accounts/connect"
    async with held_json(application.room.url, path, body, token=token) as held:
        if has_ended:
            async with deployment.transaction() as transaction:
                which = {"user_id": application.user.id, "client_id": application.client.id}
                await grants.revoke_client_grants(transaction, **which, reason="test", now=deployment.now())
        answer = await held.finish()
    assert answer.status_code == (401 if has_ended else 201), answer.text
