"""`token-vault import auth0|nango|better-auth|contextforge|composio`: what is imported from each file and what isn't.

The files have the formats that `server/administration/account_imports/` cites. Next to each account that is left out is
one that differs only in the reason.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from argon2.low_level import Type, hash_secret_raw
from cryptography.fernet import Fernet

from providers.simulator.accounts import CLIENT_ID
from server.administration.account_imports import auth0, better_auth, composio, contextforge, nango
from server.administration.account_imports.accounts import NO_REFRESH_TOKEN
from tests.cli.transfers.configured_vault import ConfiguredVault, account_of, token_of
from tests.support.rooms.exchange_room import EVENTS, GOOGLE
from tests.support.rooms.mcp_room import SLACK
from vault import users

SECRET = "a secret of ContextForge"
LOST = "invalid_token"


def write_json(file: Path, content: object) -> Path:
    file.write_text(json.dumps(content))
    return file


async def test_auth0_gives_identities_and_names_connected_accounts(place: ConfiguredVault, tmp_path: Path) -> None:
    person, google = await place.user(), await place.former("google")
    identity = {
        "connection": "google-oauth2",
        "user_id": account_of(google),
        "provider": "google-oauth2",
        "isSocial": True,
        "access_token": google.access_token,
        "refresh_token": token_of(google),
    }
    unasked = {name: value for name, value in identity.items() if not name.endswith("_token")}
    user = {
        "user_id": "google-oauth2|1",
        "email": person.name,
        "identities": [
            {"connection": "Username-Password-Authentication", "provider": "auth0", "user_id": "1"},
            unasked,
            {**unasked, "access_token": google.access_token},
            identity,
        ],
        "connected_accounts": [{"id": "cac_1", "connection": "google-oauth2", "scopes": [EVENTS]}],
    }
    file = write_json(tmp_path / "users.json", {"users": [user]})
    unsaid = "the file doesn't list the granted scopes: add --scopes google='SCOPE ...'"
    assert await place.outcomes("auth0", file) == [auth0.ASK, NO_REFRESH_TOKEN, unsaid, auth0.KEPT]
    granted = f"google={EVENTS}"
    assert (await place.outcomes("auth0", file, "--apply", "--scopes", granted))[2] == "imported"
    another = {**user, "email": "other@example.com", "nickname": person.name, "username": person.name}
    unproved = [another, {**user, "email_verified": False}, {**user, "email_verified": True}]
    file = write_json(tmp_path / "others.json", [{**one, "identities": [identity]} for one in unproved])
    nobody, known = "no such user, or disabled", "already connected"
    told = await place.outcomes("auth0", file, "--scopes", granted)
    assert [one for one in told if one != auth0.KEPT] == [nobody, nobody, known], "nobody chooses who they are here"
    (imported,) = await place.list_connections(person)
    assert (imported.account, imported.label, imported.scopes) == (
        account_of(google),
        google.account and google.account.label,
        {EVENTS},
    )


async def test_nango_gives_connections_with_credentials(place: ConfiguredVault, tmp_path: Path) -> None:
    person, slack = await place.user(), await place.former("slack")
    credentials = {
        "type": "OAUTH2",
        "access_token": slack.access_token,
        "refresh_token": token_of(slack),
        "expires_at": "2026-11-27T10:00:00.000Z",
        "raw": {"scope": ",".join(sorted(SLACK)), "team": {"id": "T1"}},
    }
    whole = {
        "id": 1,
        "connection_id": "c-1",
        "provider_config_key": "slack-prod",
        "provider": "slack",
        "tags": {"end_user_id": "4711"},
        "end_user": None,
        "credentials": credentials,
    }
    cases: list[tuple[dict[str, object], str]] = [
        (whole, "imported"),
        ({**whole, "credentials": {}}, nango.ASK),
        (
            {**whole, "credentials": {"type": "API_KEY", "apiKey": "k"}},
            "credentials of the type API_KEY can't be imported",
        ),
        ({**whole, "credentials": {**credentials, "refresh_token": "REDACTED"}}, nango.REDACTED),
        ({**whole, "credentials": {**credentials, "refresh_token": None}}, nango.ASK),
        (
            {**whole, "credentials": {**credentials, "config_override": {"client_id": "another"}}},
            "it belongs to a different OAuth app than the one for slack here: another",
        ),
        (
            {**whole, "credentials": {**credentials, "config_override": {"client_id": CLIENT_ID}}},
            "the file has this account twice",
        ),
        ({**whole, "tags": {"end_user_id": "4712"}, "connection_id": "c-2"}, "no such user, or disabled"),
    ]
    people = tmp_path / "people.csv"
    people.write_text(f"source,user\n4711,{person.name}\n")
    file = tmp_path / "connections.jsonl"
    file.write_text("\n".join(json.dumps(one) for one, _ in cases))
    assert await place.outcomes("nango", file, "--apply", "--people", people) == [said for _, said in cases]
    (imported,) = await place.list_connections(person)
    assert (imported.account, imported.scopes) == (account_of(slack), SLACK)  # the provider said which account it is


async def test_better_auth_gives_rows_that_are_not_encrypted(place: ConfiguredVault, tmp_path: Path) -> None:
    person, google = await place.user(), await place.former("google")
    row: dict[str, object] = {
        "id": "1",
        "email": person.name,
        "userId": "u1",
        "providerId": "google",
        "accountId": account_of(google),
        "accessToken": "over",
        "refreshToken": token_of(google),
        "accessTokenExpiresAt": "2026-11-20T00:00:00Z",
        "scope": ",".join([*sorted(GOOGLE), "openid", "https://www.googleapis.com/auth/unheard-of"]),
    }
    snake = {
        "email": person.name,
        "provider_id": "google",
        "account_id": account_of(google),
        "refresh_token": token_of(google),
        "scope": EVENTS,
    }
    cases: list[tuple[dict[str, object], str]] = [
        (row, "imported"),
        (snake, "the file has this account twice"),
        ({**row, "refreshToken": f"$ba$1${'0f' * 60}"}, better_auth.ENCRYPTED),
        ({**row, "refreshToken": "0f" * 60}, better_auth.ENCRYPTED),
        ({**row, "refreshToken": None}, NO_REFRESH_TOKEN),
        ({**row, "emailVerified": False}, "no such user, or disabled"),
        ({**row, "emailVerified": True}, "the file has this account twice"),
    ]
    rows = [
        *(one for one, _ in cases),
        {"providerId": "credential", "accountId": "u1", "userId": "u1", "password": "x"},
    ]
    file = write_json(tmp_path / "account.json", rows)
    done = await place.run_command("import", "better-auth", file, "--apply")
    told = json.loads(done.stdout)
    assert [one["outcome"] for one in told] == [said for _, said in cases]
    assert told[0]["left_out"] == ["https://www.googleapis.com/auth/unheard-of"]
    (imported,) = await place.list_connections(person)
    assert (imported.account, imported.scopes - {"openid"}) == (account_of(google), GOOGLE)


def seal_like_context_forge(token: str) -> str:
    """Seal it as ContextForge's encryption service does, at the lowest cost."""
    salt = os.urandom(16)
    key = hash_secret_raw(SECRET.encode(), salt, time_cost=1, memory_cost=8, parallelism=1, hash_len=32, type=Type.ID)
    bundle = {"version": "v2", "kdf": "argon2id", "t": 1, "m": 8, "p": 1, "salt": base64.b64encode(salt).decode()}
    return "v2:" + json.dumps(
        {**bundle, "token": Fernet(base64.urlsafe_b64encode(key)).encrypt(token.encode()).decode()}
    )


async def test_contextforge_gives_its_tables_as_they_lie(place: ConfiguredVault, tmp_path: Path) -> None:
    person, slack = await place.user(), await place.former("slack")
    url = next(one for one in place.deployment.catalog if one.name == "slack").hosts.token_url
    gateways = {
        "slack": {"grant_type": "authorization_code", "client_id": CLIENT_ID, "token_url": url},
        "foreign": {"grant_type": "authorization_code", "client_id": "another", "token_url": url},
        "unknown": {"grant_type": "authorization_code", "client_id": CLIENT_ID, "token_url": "https://other.example/t"},
    }
    kept = [
        ("slack", seal_like_context_forge(slack.access_token), seal_like_context_forge(token_of(slack))),
        ("foreign", seal_like_context_forge(slack.access_token), seal_like_context_forge(token_of(slack))),
        ("unknown", seal_like_context_forge(slack.access_token), seal_like_context_forge(token_of(slack))),
        ("slack", seal_like_context_forge("over"), seal_like_context_forge(token_of(slack))),
        ("slack", seal_like_context_forge(slack.access_token), None),
    ]
    file = tmp_path / "mcp.db"
    with closing(sqlite3.connect(file)) as made:
        made.execute("create table gateways (id text, name text, oauth_config json)")
        made.execute(
            "create table oauth_tokens (id text, gateway_id text, user_id text, app_user_email text, access_token text,"
            " refresh_token text, token_type text, expires_at datetime, scopes json, created_at datetime)"
        )
        for name, config in gateways.items():
            made.execute("insert into gateways values (?, ?, ?)", (name, name, json.dumps(config)))
        for number, (gateway, access, refresh) in enumerate(kept):
            values = (
                gateway,
                CLIENT_ID,
                person.name,
                access,
                refresh,
                "Bearer",
                "2026-11-27",
                json.dumps(sorted(SLACK)),
            )
            made.execute(
                "insert into oauth_tokens values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (str(number), *values, number)
            )
        made.commit()
    before = file.read_bytes()
    secret, wrong = tmp_path / "secret", tmp_path / "wrong"
    secret.write_text(f"{SECRET}\n")
    wrong.write_text("another")
    assert set(await place.outcomes("contextforge", file)) == {contextforge.LOCKED}
    assert set(await place.outcomes("contextforge", file, "--secret-file", wrong)) == {contextforge.WRONG}
    unsalted = seal_like_context_forge("x").replace('"salt": "', '"salt": "", "was": "')
    odd = write_json(
        tmp_path / "odd.json", [{"app_user_email": person.name, "gateway": "slack", "refresh_token": unsalted}]
    )
    assert await place.outcomes("contextforge", odd, "--secret-file", secret) == [contextforge.WRONG]
    odd.unlink()
    told = await place.outcomes("contextforge", file, "--secret-file", secret, "--apply")
    assert told[:3] == [
        "imported",
        "it belongs to a different OAuth app than the one for slack here: another",
        "unknown provider",
    ]
    assert "fetch the file again while its access tokens are valid" in told[3]  # its `user_id` is the client's
    assert told[4] == NO_REFRESH_TOKEN
    assert file.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["mcp.db", "secret", "wrong"]
    (imported,) = await place.list_connections(person)
    assert (imported.account, imported.scopes) == (account_of(slack), SLACK)


async def test_composio_gives_accounts_of_ones_own_app_and_their_people_are_made(
    place: ConfiguredVault, tmp_path: Path
) -> None:
    google, name = await place.former("google"), f"new-{os.urandom(4).hex()}"
    value = {
        "status": "ACTIVE",
        "access_token": google.access_token,
        "refresh_token": token_of(google),
        "expires_in": 3599,
        "scope": " ".join(sorted(GOOGLE)),
    }
    whole: dict[str, object] = {
        "id": "ca_1",
        "user_id": name,
        "toolkit": {"slug": "googlecalendar"},
        "auth_config": {"id": "ac_1", "auth_scheme": "OAUTH2", "is_composio_managed": False},
        "status": "ACTIVE",
        "state": {"authScheme": "OAUTH2", "val": value},
    }
    cases: list[tuple[dict[str, object], str]] = [
        ({**whole, "auth_config": {"is_composio_managed": True}}, composio.MANAGED),
        ({**whole, "status": "EXPIRED"}, "it is expired at Composio"),
        (
            {**whole, "state": {"authScheme": "API_KEY", "val": {}}},
            "credentials of the scheme API_KEY can't be imported",
        ),
        ({**whole, "state": {"authScheme": "OAUTH2", "val": {**value, "refresh_token": "1//0..."}}}, composio.MASKED),
        ({**whole, "state": {"authScheme": "OAUTH2", "val": {**value, "refresh_token": "REDACTED"}}}, composio.MASKED),
        ({**whole, "state": {"authScheme": "OAUTH2", "val": {**value, "refresh_token": None}}}, NO_REFRESH_TOKEN),
        (whole, "imported"),
    ]
    file = write_json(tmp_path / "accounts.json", {"items": [one for one, _ in cases], "next_cursor": None})
    assert (await place.outcomes("composio", file))[-1] == "no such user, or disabled"
    told = await place.outcomes("composio", file, "--apply", "--create-people")
    assert told == [said for _, said in cases]
    made = await users.find_user(place.deployment.database, name)
    assert made is not None
    (imported,) = await place.list_connections(made)
    assert (imported.provider, imported.account) == ("google", account_of(google))
    (created,) = [one for one in await place.room.events("user.created") if one.user_id == made.id]
    assert created.details["method"] == "import"


async def test_a_lasting_access_token_stands_for_a_refresh_token(place: ConfiguredVault, tmp_path: Path) -> None:
    """As with GitHub's OAuth apps, and Slack without rotation: the same connection with an expiry is left out."""
    person, slack = await place.user(), await place.former("slack")
    credentials = {"type": "OAUTH2", "access_token": slack.access_token, "raw": {"scope": "chat:write"}}
    lasting = {"provider": "slack", "connection_id": person.name, "credentials": credentials}
    ending = {**lasting, "credentials": {**credentials, "expires_at": "2026-11-27T10:00:00Z"}}
    file = write_json(tmp_path / "connections.json", [ending, lasting])
    assert await place.outcomes("nango", file, "--apply") == [nango.ASK, "imported"]
    (imported,) = await place.list_connections(person)
    assert (imported.has_refresh_token, imported.access_expires_at) == (False, None)


async def test_a_database_whose_tables_are_views_is_not_read(place: ConfiguredVault, tmp_path: Path) -> None:
    """A view can return anything, such as endless rows."""
    columns = "id, gateway_id, app_user_email, access_token, refresh_token, expires_at, scopes, created_at"
    for kind, said in (("view", "must be tables"), ("table", "The file has no accounts")):
        file = tmp_path / f"{kind}.db"
        with closing(sqlite3.connect(file)) as made:
            made.execute("create table gateways (id, name, oauth_config)")
            named = ", ".join(f"1 as {one}" for one in columns.split(", "))
            made.execute(f"create {kind} oauth_tokens " + (f"as select {named}" if kind == "view" else f"({columns})"))
        done = await place.run_command("import", "contextforge", file)
        assert said in done.output or (kind == "table" and done.stdout.strip() == "[]"), done.output
        assert (done.exit_code == 0) == (kind == "table")
