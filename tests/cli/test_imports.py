"""`token-vault import csv`: accounts of another vault, judged first, stored once, refreshed at their first use."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner, Result

from providers.simulator.person import consent
from server.cli import app
from tests.journeys.foreign.test_foreign_inspector import settings_file
from tests.support.rooms.exchange_room import ExchangeRoom
from tests.support.rooms.mcp_room import SLACK, room
from tests.support.rooms.portal_room import query_of
from vault import connections, delegations

REDIRECT = "https://former.example/callback"
HEAD = "user,provider,account,refresh_token,scopes"


@pytest.fixture
async def place(tmp_path: Path) -> AsyncGenerator[ExchangeRoom]:
    async with (
        room(tmp_path / "data") as opened,
        httpx2.AsyncClient(base_url=opened.url, timeout=20, trust_env=False) as http,
    ):
        yield ExchangeRoom(opened, http)


async def former_token(place: ExchangeRoom, *, account: str = "alice") -> tuple[str, str]:
    """The account's id and a refresh token, as another program with the same OAuth app got them."""
    upstream = place.deployment.vault.upstreams["slack"]
    verifier = "v" * 64
    url = upstream.authorization_url(
        redirect_uri=REDIRECT, state="s", scopes=SLACK, code_verifier=verifier, login_hint=None
    )
    code = query_of(await consent(url, account=account))["code"]

    async def keep(_: object) -> None:
        return None

    answer = await upstream.redeem(code=code, redirect_uri=REDIRECT, code_verifier=verifier, state="s", keep=keep)
    assert answer.account is not None
    assert answer.refresh_token is not None
    return answer.account.id, answer.refresh_token


async def typed(place: ExchangeRoom, file: Path, *options: str) -> Result:
    """The command beside the running vault."""
    data = place.deployment.data
    (data / "config.toml").write_text(settings_file(place.room))
    command = ["import", "csv", str(file), *options, "--json", "--data", str(data)]
    return await asyncio.to_thread(CliRunner().invoke, app, command)


async def test_an_account_is_judged_imported_once_and_refreshed_at_its_first_use(
    place: ExchangeRoom, tmp_path: Path
) -> None:
    alice = await place.user("alice")
    account, token = await former_token(place)
    file = tmp_path / "accounts.csv"
    file.write_text(f"{HEAD}\nalice,slack,{account},{token},{' '.join(sorted(SLACK))}\n")
    before = file.read_bytes()
    judged = await typed(place, file)
    assert judged.exit_code == 0, judged.output
    assert json.loads(judged.stdout)[0]["outcome"] == "new"
    assert await connections.list_connections(place.deployment.database, alice.id) == ()
    for outcome in ("imported", "already connected"):
        done = await typed(place, file, "--apply")
        assert (done.exit_code, json.loads(done.stdout)[0]["outcome"]) == (0, outcome), done.output
    assert file.read_bytes() == before
    (imported,) = await connections.list_connections(place.deployment.database, alice.id)
    assert (imported.account, imported.scopes) == (account, SLACK)
    assert token not in "".join(path.read_bytes().decode("latin-1") for path in place.deployment.data.glob("*.sqlite*"))

    caller = await place.caller(release={"slack": "full"})
    agent = await place.agent(caller)
    async with place.deployment.transaction() as transaction:
        await delegations.allow(
            transaction,
            user_id=alice.id,
            client_id=caller.client.id,
            connection_id=imported.id,
            scopes=SLACK,
            now=place.now(),
        )
    answer = await place.exchange(caller, agent.token)
    assert answer.status_code == 200, answer.text
    assert answer.json()["access_token"] != "-"
    assert len(await place.events("connection.refreshed")) == 1
    (opened,) = await place.events("connection.opened")
    assert opened.details["method"] == "import"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("nobody,slack,U1,rt,chat:write", "no such user, or disabled"),
        ("alice,nothing,U1,rt,chat:write", "unknown provider"),
        (
            "alice,dropbox,U1,rt,files.content.read",
            "dropbox isn't set up: enter the OAuth app that these tokens belong to",
        ),
        ("alice,slack,U1,rt,no:such", "slack doesn't have the scope no:such"),
    ],
)
async def test_a_row_that_cannot_be_taken_over_says_why_and_the_others_go_in(
    place: ExchangeRoom, tmp_path: Path, row: str, said: str
) -> None:
    alice = await place.user("alice")
    file = tmp_path / "accounts.csv"
    file.write_text(f"{HEAD}\n{row}\nalice,slack,U2,rt-2,chat:write\nalice,slack,U2,rt-3,chat:write\n")
    done = await typed(place, file, "--apply")
    assert done.exit_code == 1
    outcomes = [one["outcome"] for one in json.loads(done.stdout)]
    assert outcomes == [said, "imported", "the file has this account twice"]
    assert len(await connections.list_connections(place.deployment.database, alice.id)) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("user,provider\nalice,slack\n", "the first line must name the columns"),
        (f"{HEAD},more\nalice,slack,U1,rt,chat:write,x\n", "the first line must name the columns"),
        (f"{HEAD}\nalice,slack,,rt,chat:write\n", "line 2: account is empty"),
        (f"{HEAD}\nalice,slack,U1\x1b,rt,chat:write\n", "line 2: account has characters that can't be shown"),
        (f"{HEAD}\nalice,slack,U1,r\x00t,chat:write\n", "line 2: refresh_token has characters that can't be shown"),
        (f"{HEAD}\nalice,slack,{'U' * 256},rt,chat:write\n", "line 2: too many or too long values"),
        (f"{HEAD}\nalice,slack,U1,rt,chat:write,one more\n", "line 2: too many or too long values"),
    ],
)
async def test_a_file_that_cannot_be_read_names_the_line(
    place: ExchangeRoom, tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "accounts.csv"
    file.write_text(content)
    refused = await typed(place, file)
    assert refused.exit_code != 0
    assert said in refused.output


async def test_a_label_is_cleaned_as_that_of_a_provider_is(place: ExchangeRoom, tmp_path: Path) -> None:
    alice = await place.user("alice")
    file = tmp_path / "accounts.csv"
    file.write_text(f'{HEAD},label\nalice,slack,U1,rt,chat:write,"a\u202eb\x1b[2J{"x" * 300}"\n')
    assert (await typed(place, file, "--apply")).exit_code == 0
    (imported,) = await connections.list_connections(place.deployment.database, alice.id)
    assert imported.label.startswith("ab[2Jx")
    assert len(imported.label) == 200
