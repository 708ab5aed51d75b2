"""The grant for a connected account's token: what clients of Auth0's Token Vault send and rely on."""

from __future__ import annotations

import pytest

from tests.auth0.application import ACCOUNT_TOKEN, Application
from tests.support.rooms.portal_room import Room, accounts_of

FIVE = {"access_token", "scope", "expires_in", "issued_token_type", "token_type"}


@pytest.mark.parametrize("encoding", ["json", "form"])
async def test_a_refresh_token_gets_the_accounts_token_with_five_members(
    application: Application, encoding: str
) -> None:
    await application.connect()
    answer = await application.account_token(encoding=encoding)
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert set(content) == FIVE
    assert (content["token_type"], content["issued_token_type"]) == ("Bearer", ACCOUNT_TOKEN)
    assert isinstance(content["expires_in"], int)
    assert answer.headers["content-type"] == "application/json"
    assert "," not in content["scope"]
    assert "chat:write" in content["scope"].split()
    assert (await application.account_token(encoding=encoding)).status_code == 200  # the refresh token isn't used up


async def test_an_account_that_is_missing_has_the_code_that_clients_connect_at(application: Application) -> None:
    answer = await application.account_token()
    assert answer.status_code == 401
    assert answer.json()["error"] == "federated_connection_refresh_token_not_found"
    await application.connect()
    assert (await application.account_token()).status_code == 200


async def test_a_hint_chooses_among_accounts_and_an_unknown_one_is_refused(application: Application) -> None:
    first = await application.connect(account="alice")
    second = await application.connect(account="bob")
    assert first["id"] != second["id"]
    hints = [one.account for one in await accounts_of(application.room, application.user)]  # the provider's ids
    tokens = [(await application.account_token({"login_hint": hint})).json()["access_token"] for hint in hints]
    assert len(set(tokens)) == 2
    unknown = await application.account_token({"login_hint": "carol"})
    assert (unknown.status_code, unknown.json()["error"]) == (401, "user_not_found")


@pytest.mark.parametrize("changes", [{}, {"scope": "chat:write"}], ids=["all", "one"])
async def test_a_client_without_the_operators_release_gets_no_token(
    room: Room, application: Application, changes: dict[str, str | None]
) -> None:
    other = await Application.register(
        room, application.http, metadata={"auth0": True, "release": {"default": "proxy"}}
    )
    await other.sign_in()
    await other.connect()
    refused = await other.account_token(changes)
    assert (refused.status_code, refused.json()["error"]) == (403, "access_denied"), refused.text
    assert "token-vault clients release" in refused.json()["error_description"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"subject_token": "unknown"}, "invalid_grant"),
        ({"connection": "nobody-knows"}, "invalid_request"),
        ({"connection": None}, "invalid_request"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request"),
        ({"client_secret": "wrong"}, "invalid_client"),
        ({"scope": "admin"}, "invalid_scope"),
    ],
)
async def test_each_refusal_and_the_honest_request_beside_it(
    application: Application, changes: dict[str, str | None], code: str
) -> None:
    await application.connect()
    refused = await application.account_token(changes)
    assert refused.json()["error"] == code, refused.text
    assert refused.status_code in {400, 401}
    assert (await application.account_token()).status_code == 200


async def test_another_clients_refresh_token_is_refused(room: Room, application: Application) -> None:
    await application.connect()
    other = await Application.register(room, application.http)
    refused = await other.account_token({"subject_token": application.refresh_token})
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")


async def test_a_revoked_refresh_token_gets_nothing(application: Application) -> None:
    await application.connect()
    ended = await application.http.post(
        "/oauth/revoke", json={**application.credentials, "token": application.refresh_token}
    )
    assert ended.status_code == 200
    assert (await application.account_token()).json()["error"] == "invalid_grant"
