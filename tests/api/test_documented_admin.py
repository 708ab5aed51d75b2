"""Run the code blocks of the pages on the Admin API and its clients unchanged."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from server.administration import reconciliation
from server.administration.declaration import read_declaration
from tests.conftest import unavailable
from tests.generating.documentation import DOCS
from tests.support.foreign.foreign import run
from tests.support.rooms.admin_room import AdminRoom, running_admin_room

PAGE = DOCS / "operate/admin-api.md"
IMPORTED = {"document_file", "reviewed", "tools"}
CLIENTS = DOCS / "guides/clients-for-programs.md"


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
async def room(tmp_path: Path) -> AsyncGenerator[AdminRoom]:
    async with running_admin_room(tmp_path / "vault") as opened:
        yield opened


async def test_a_service_account_is_made_and_used_by_the_lines_of_the_page(room: AdminRoom, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        unavailable("the page's lines need: apt-get install curl")
    adding, asking, using = blocks(PAGE, "sh")[0].splitlines()
    program = str(Path(sys.executable).with_name("token-vault"))
    variables = {
        "TOKEN_VAULT_DATA": str(room.deployment.data),
        "TOKEN_VAULT_SERVER__PUBLIC_URL": room.room.url,
        "PATH": os.environ["PATH"],
    }
    made = await run(program, *shlex.split(adding)[1:], "--json", folder=tmp_path, env=variables)
    assert made.code == 0, made.err
    client = json.loads(made.out)

    async def run_line(line: str, **values: str) -> dict[str, object]:
        line = line.replace("https://vault.example", room.room.url).replace("curl ", "curl -sS ", 1)
        done = await run("/bin/sh", "-c", line, folder=tmp_path, env={**variables, **values})
        assert done.code == 0, done.err
        return json.loads(done.out)

    answer = await run_line(asking, CLIENT_ID=client["client_id"], CLIENT_SECRET=client["client_secret"])
    people = await run_line(using, TOKEN=str(answer["access_token"]))
    assert [one["name"] for one in people["items"]] == ["alice"]


async def test_the_pages_declaration_is_applied_once(room: AdminRoom, tmp_path: Path) -> None:
    (block,) = blocks(PAGE, "toml")
    declared, imported, rest = block.partition("\n[imported_apis.")
    api, policies, rules = rest.partition("\n[policies.")
    assert imported and set(tomllib.loads(imported + api)["imported_apis"]["brokerage"]) == IMPORTED
    assert policies
    # an import needs the digest from a review
    (tmp_path / "vault.toml").write_text(declared + policies + rules, encoding="utf-8")
    (tmp_path / "mail-outside.cedar").write_text("// none", encoding="utf-8")
    (tmp_path / "dropbox.secret").write_text("secret", encoding="utf-8")
    wanted = read_declaration(tmp_path / "vault.toml")
    assert wanted.policies is not None
    assert {name: one.rules for name, one in wanted.policies.items()} == {"mail-outside": "// none"}
    await reconciliation.apply(await reconciliation.plan(room.operator, wanted))
    assert await reconciliation.plan(room.operator, wanted) == ()
