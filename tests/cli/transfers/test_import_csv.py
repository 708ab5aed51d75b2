"""`token-vault import csv`: accounts of another vault, checked first, stored once, refreshed at their first use."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from server.administration import people
from server.administration.account_imports import transfers
from server.administration.account_imports.accounts import ImportedAccount
from server.administration.account_imports.transfers import ImportRules
from server.administration.actor import Actor
from tests.cli.transfers.configured_vault import ConfiguredVault, account_of, token_of
from tests.support.rooms.mcp_room import SLACK
from vault import delegations, users

UNSET = "dropbox isn't set up: enter the OAuth app that these tokens belong to"
HEAD = "user,provider,account,refresh_token,scopes"


async def test_an_account_is_judged_imported_once_and_refreshed_at_its_first_use(
    place: ConfiguredVault, tmp_path: Path
) -> None:
    person, former = await place.user(), await place.former("slack")
    account, token = account_of(former), token_of(former)
    file = tmp_path / "accounts.csv"
    file.write_text(f"{HEAD}\n{person.name},slack,{account},{token},{' '.join(sorted(SLACK))}\n")
    before = file.read_bytes()
    judged = await place.run_command("import", "csv", file)
    assert judged.exit_code == 0, judged.output
    assert json.loads(judged.stdout)[0]["outcome"] == "new"
    assert await place.list_connections(person) == ()
    for outcome in ("imported", "already connected"):
        done = await place.run_command("import", "csv", file, "--apply")
        assert (done.exit_code, json.loads(done.stdout)[0]["outcome"]) == (0, outcome), done.output
    assert file.read_bytes() == before
    (imported,) = await place.list_connections(person)
    assert (imported.account, imported.scopes) == (account, SLACK)
    stored = place.deployment.data.glob("*.sqlite*")
    assert token not in "".join(path.read_bytes().decode("latin-1") for path in stored)

    caller = await place.room.caller(release={"slack": "full"})
    agent = await place.room.agent(caller, person.name)
    async with place.deployment.transaction() as transaction:
        await delegations.allow(
            transaction,
            user_id=person.id,
            client_id=caller.client.id,
            connection_id=imported.id,
            scopes=SLACK,
            now=place.room.now(),
        )
    answer = await place.room.exchange(caller, agent.token)
    assert answer.status_code == 200, answer.text
    assert answer.json()["access_token"] != "-"
    refreshed = [one for one in await place.room.events("connection.refreshed") if one.user_id == person.id]
    assert len(refreshed) == 1
    (opened,) = [one for one in await place.room.events("connection.opened") if one.user_id == person.id]
    assert opened.details["method"] == "import"


async def test_a_row_that_cannot_be_taken_over_says_why_and_the_others_go_in(
    place: ConfiguredVault, tmp_path: Path
) -> None:
    person, gone = await place.user(), await place.user()
    await people.set_disabled(Actor(place.deployment, None, "command_line"), gone, is_disabled=True)
    rows = {
        "nobody,slack,U1,rt,chat:write": "no such user, or disabled",
        f"{gone.name},slack,U1,rt,chat:write": "no such user, or disabled",
        f"{person.name},nothing,U1,rt,chat:write": "unknown provider",
        f"{person.name},dropbox,U1,rt,files.content.read": UNSET,
        f"{person.name},slack,U1,rt,no:such": "slack doesn't have the scope no:such",
        f"{person.name},slack,U2,rt-2,chat:write": "imported",
        f"{person.name},slack,U2,rt-3,chat:write": "the file has this account twice",
    }
    file = tmp_path / "accounts.csv"
    file.write_text("\n".join((HEAD, *rows)))
    judged = ["new" if said == "imported" else said for said in rows.values()]
    assert await place.outcomes("csv", file) == judged
    assert await place.outcomes("csv", file, "--apply") == list(rows.values())
    assert len(await place.list_connections(person)) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("user,provider\nalice,slack\n", "the first line must name the columns"),
        (f"{HEAD},more\nalice,slack,U1,rt,chat:write,x\n", "the first line must name the columns"),
        (f"{HEAD}\nalice,slack,,rt,chat:write\n", "line 2: account is empty"),
        (f"{HEAD}\nalice,slack,U1\x1b,rt,chat:write\n", "line 2: account has unprintable characters"),
        (f"{HEAD}\nalice,slack,U1,r\x00t,chat:write\n", "line 2: refresh_token has unprintable characters"),
        (f"{HEAD}\nalice,slack,{'U' * 256},rt,chat:write\n", "line 2: too many or too long values"),
        (f"{HEAD}\nalice,slack,U1,rt,chat:write,one more\n", "line 2: too many or too long values"),
    ],
)
async def test_a_file_that_cannot_be_read_names_the_line(
    place: ConfiguredVault, tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "accounts.csv"
    file.write_text(content)
    refused = await place.run_command("import", "csv", file)
    assert refused.exit_code != 0
    assert said in refused.output


async def test_a_label_is_cleaned_as_that_of_a_provider_is(place: ConfiguredVault, tmp_path: Path) -> None:
    person = await place.user()
    file = tmp_path / "accounts.csv"
    file.write_text(f'{HEAD},label\n{person.name},slack,U1,rt,chat:write,"a\u202eb\x1b[2J{"x" * 300}"\n')
    assert await place.outcomes("csv", file, "--apply") == ["imported"]
    (imported,) = await place.list_connections(person)
    assert imported.label.startswith("ab[2Jx")
    assert len(imported.label) == 200


async def test_a_person_who_is_disabled_between_a_rows_checks_gets_no_account(place: ConfiguredVault) -> None:
    person, actor = await place.user(), Actor(place.deployment, None, "command_line")
    row = ImportedAccount(
        1, (person.name,), "slack", account="U7", scopes=sorted(SLACK), refresh_token="rt-7", account_is_ours=True
    )
    (judged,) = await transfers.judge(actor, [row], ImportRules())
    assert judged.planned is not None
    async with place.deployment.transaction() as transaction:
        await users.disable_user(transaction, person.id, now=place.deployment.now())
        importing = asyncio.create_task(transfers.take_over(actor, row, judged.planned))
        await asyncio.sleep(0.5)
        assert not importing.done()  # it read the person as enabled, and waits for the transaction
    assert await importing == transfers.NOBODY
    assert await place.list_connections(person) == ()
    await people.set_disabled(actor, person, is_disabled=False)
    assert await transfers.take_over(actor, row, judged.planned) == transfers.NEW  # the twin
    assert len(await place.list_connections(person)) == 1
