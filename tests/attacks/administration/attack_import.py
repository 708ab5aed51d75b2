"""`import csv`, on both databases: values that are code, belong to others, or are too long; labels from elsewhere."""

from __future__ import annotations

import csv
import io
import json
import secrets
from pathlib import Path

import pytest

from tests.attacks.administration.attack_administration import id_of, someone
from tests.attacks.target import Target
from tests.support.person import Person, without_own_markup

HEAD = "user,provider,account,refresh_token,scopes"
SCOPE = "files.content.read"


async def person_of(target: Target) -> tuple[str, Person]:
    """Add a person; return the name too."""
    _, person = await someone(target)
    return str((await person.http.get("/account/data")).json()["user"]["name"]), person


async def take_over(target: Target, folder: Path, text: str | bytes, *options: str) -> tuple[int, str, str]:
    """Run the command next to the running vault; return exit code, standard output, and standard error."""
    file = folder / f"{secrets.token_hex(4)}.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    code, out, err = await target.place.run("import", "csv", str(file), "--apply", *options)
    assert "Traceback" not in out + err
    return code, out, err


async def accounts(person: Person) -> list[dict[str, object]]:
    found = (await person.http.get("/account/data")).json()["accounts"]
    return [{str(name): value for name, value in one.items()} for one in found]


async def test_an_honest_row_is_taken_over(vault: Target, tmp_path: Path) -> None:
    """The twin of the attacks below."""
    name, person = await person_of(vault)
    code, out, err = await take_over(vault, tmp_path, f"{HEAD}\n{name},dropbox,U1,rt-canary-1,{SCOPE}\n", "--json")
    assert (code, json.loads(out)[0]["outcome"]) == (0, "imported"), err
    assert [one["provider"] for one in await accounts(person)] == ["dropbox"]
    assert "rt-canary-1" not in out + err


HIDDEN = "\x1b\x07\x7f\u202e\u009b\u2028"
LABELS = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "{{ 7*7 }}", "=cmd|' /C calc'!A0", "@SUM(1)", "+1",
    "\x1b[2Jgone", "a\x07b", "\u202egnp.exe", "a\u2028b", "a\u009b31m", "a\tb", "'; drop table users; --",
    "x" * 16_000, "javascript:alert(1)", "\ufeffx", "a\x7fb",
)  # fmt: skip


async def test_no_label_is_code_anywhere(vault: Target, tmp_path: Path) -> None:
    """All labels are in one file, because each command takes a while."""
    name, person = await person_of(vault)
    rows = [f'{name},dropbox,U{number},rt-canary-2,{SCOPE},"{label}"' for number, label in enumerate(LABELS)]
    code, out, err = await take_over(vault, tmp_path, "\n".join([f"{HEAD},label", *rows]) + "\n")
    assert code == 0, out + err
    for text in (out, err, await vault.command("connections", "list", "--user", name)):
        assert not any(one in text for one in HIDDEN + "\r"), ascii(text)[:300]
    owned = await accounts(person)
    assert len(owned) == len(LABELS)
    for path in ("/", "/connections", *(f"/connections/{one['id']}" for one in owned), "/activity", "/account"):
        page = without_own_markup((await person.open(path)).text)
        assert "<script" not in page, path
        assert "<img src=x" not in page
        assert ">49<" not in page
        assert not any(one in page for one in HIDDEN.replace("\u2028", "")), path  # browsers treat it as a space
    answer = await person.http.get("/activity/export?format=csv")
    cells = [cell for row in csv.reader(io.StringIO(answer.text)) for cell in row]
    assert not [cell for cell in cells if cell[:1] in {"=", "+", "-", "@", "\t"}]


OTHERS: dict[str, str] = {
    "nobody": "nobody,dropbox,U1,rt,files.content.read",
    "a name with a blank": "{name} x,dropbox,U1,rt,files.content.read",
    "a pattern": "%,dropbox,U1,rt,files.content.read",
    "an id": "{id},dropbox,U1,rt,files.content.read",
    "a name with a Cyrillic letter": "m\u0430llory,dropbox,U1,rt,files.content.read",
    "NUL": "{name}\x00,dropbox,U1,rt,files.content.read",
    "an unknown provider": "{name},unknown,U1,rt,files.content.read",
    "a path": "{name},../dropbox,U1,rt,files.content.read",
    "a provider that isn't set up": "{name},linear,U1,rt,read",
    "a scope it doesn't have": "{name},dropbox,U1,rt,admin",
    "every scope": "{name},dropbox,U1,rt,*",
    "an account with NUL": "{name},dropbox,U\x00,rt,files.content.read",
    "a token with NUL": "{name},dropbox,U1,r\x00t,files.content.read",
    "no token": "{name},dropbox,U1,,files.content.read",
    "no scope": "{name},dropbox,U1,rt,",
    "a column more": "{name},dropbox,U1,rt,files.content.read,label,more",
    "a column less": "{name},dropbox,U1,rt",
    "a quote that stays open": '{name},slack,"U1,rt,files.content.read',
    "a token of 20,000 characters": "{name},dropbox,U1," + "x" * 20_000 + ",files.content.read",
    "a value of 200,000": "{name},dropbox,U1," + "x" * 200_000 + ",files.content.read",
    "half a pair": "{name},dropbox,U\ud800,rt,files.content.read",
}


@pytest.mark.parametrize("what", OTHERS)
async def test_a_row_that_is_wrong_takes_nothing_over(vault: Target, tmp_path: Path, what: str) -> None:
    name, person = await person_of(vault)
    row = OTHERS[what].replace("{name}", name).replace("{id}", await id_of(person))
    code, out, err = await take_over(
        vault, tmp_path, f"{HEAD},label\n{row}\n".replace("files.content.read\n", "files.content.read,\n")
    )
    assert code != 0, (out, err)
    assert await accounts(person) == []
    assert (out + err).strip()


FILES: dict[str, bytes] = {
    "nothing": b"",
    "no head": b"alice,dropbox,U1,rt,files.content.read\n",
    "another head": b"user,provider,account,access_token,scopes\n",
    "UTF-16": f"{HEAD}\n".encode("utf-16"),
    "broken UTF-8": HEAD.encode() + b"\nalice,slack,\xff,rt,files.content.read\n",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(2000),
    "a column twice": b"user,user,provider,account,refresh_token,scopes\nmallory,alice,dropbox,U1,rt,x\n",
}


@pytest.mark.parametrize("what", FILES)
async def test_a_file_that_is_none_is_refused_in_words(target: Target, tmp_path: Path, what: str) -> None:
    before = await target.command("connections", "list", "--user", "alice", "--json")
    code, out, err = await take_over(target, tmp_path, FILES[what])
    assert code != 0 or "no rows" in out + err, (out, err)
    assert (out + err).strip()
    assert await target.command("connections", "list", "--user", "alice", "--json") == before


async def test_a_token_that_was_taken_over_is_nowhere_to_be_read(vault: Target, tmp_path: Path) -> None:
    name, person = await person_of(vault)
    secret = f"rt-{secrets.token_hex(16)}"
    await take_over(vault, tmp_path, f"{HEAD}\n{name},dropbox,U9,{secret},files.content.read\n")
    assert len(await accounts(person)) == 1
    for path in ("/connections", "/account/data", "/activity/export?format=jsonl"):
        assert secret not in (await person.http.get(path)).text
    for folder in (vault.place.data, vault.server.data):
        for file in folder.rglob("*"):
            assert not file.is_file() or secret.encode() not in file.read_bytes(), file


async def test_an_account_comes_once_and_not_over_one_that_is_there(vault: Target, tmp_path: Path) -> None:
    name, person = await person_of(vault)
    rows = "".join(f"{name},dropbox,U7,rt-{number},{SCOPE}\n" for number in range(5))
    code, _, _ = await take_over(vault, tmp_path, f"{HEAD}\n{rows}")
    assert code != 0
    (account,) = await accounts(person)
    code, out, _ = await take_over(vault, tmp_path, f"{HEAD}\n{name},dropbox,U7,rt-evil,{SCOPE}\n", "--json")
    assert (code, json.loads(out)[0]["outcome"]) == (0, "already connected")
    assert await accounts(person) == [account]


async def test_nobody_can_ask_for_it_over_the_network(target: Target) -> None:
    for path in ("/import", "/admin/v1/import", "/administration/import", "/connections/import"):
        answer = await target.alice.http.post(path, data={"file": "x"}, headers={"origin": target.url})
        assert answer.status_code in {403, 404, 405}, path
