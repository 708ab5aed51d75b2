"""The blocks of the client libraries' pages, run word for word against a vault, with its values in place of theirs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.api.conftest import run_node
from tests.conftest import unavailable
from tests.generating.documentation import DOCS, ROOT
from tests.support.rooms.admin_room import running_admin_room
from tests.support.rooms.exchange_room import EVENTS, SECRET, ExchangeRoom
from vault import users

sys.path.insert(0, str(ROOT / "clients/python"))

GUIDE = DOCS / "guides/clients-for-programs.md"
PYTHON, TYPESCRIPT = ROOT / "clients/python/README.md", ROOT / "clients/typescript/README.md"
SDK = ROOT / ".venv/sdks/clients/bin/python"


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def filled_in(block: str, url: str, client_id: str, secret: str = SECRET) -> str:
    """The block with this vault's values instead of the page's."""
    text = block.replace("https://vault.example", url)
    return text.replace('client_id="..."', f'client_id="{client_id}"').replace(
        'client_secret="..."', f'client_secret="{secret}"'
    )


async def add_connected_person(place: ExchangeRoom, name: str) -> tuple[str, str]:
    """The ID of a client, and its token for a person with Google and Slack."""
    caller = await place.caller()
    agent = await place.agent(caller, name)
    await place.google(agent)
    await place.slack(agent)
    return caller.client.id, agent.token


@pytest.mark.parametrize("page", [GUIDE, PYTHON], ids=lambda path: path.name)
async def test_the_first_python_block_gets_a_token(place: ExchangeRoom, page: Path) -> None:
    client_id, subject = await add_connected_person(place, f"python-{page.stem}")
    names: dict[str, object] = {"users_access_token": subject}
    text = filled_in(blocks(page, "python")[0], place.url, client_id)
    await asyncio.to_thread(exec, compile(text, str(page), "exec", dont_inherit=True), names)
    names["vault"].close()  # pyright: ignore[reportAttributeAccessIssue]
    assert names["token"].scopes == frozenset({EVENTS})  # pyright: ignore[reportAttributeAccessIssue]


async def test_the_block_about_administration_adds_a_person(tmp_path: Path) -> None:
    (text,) = [one for one in blocks(PYTHON, "python") if "AdminClient" in one]
    async with running_admin_room(tmp_path / "vault") as room:
        account = await room.service_account()
        text = filled_in(text, room.room.url, account.client.id, account.secret or "")
        names: dict[str, object] = {}
        await asyncio.to_thread(exec, compile(text, str(PYTHON), "exec", dont_inherit=True), names)
        names["admin"].close()  # pyright: ignore[reportAttributeAccessIssue]
        assert await users.find_user(room.deployment.database, "grace") is not None


@pytest.mark.long
@pytest.mark.group("sdks")
async def test_the_other_python_blocks_run_in_langchain_and_fastapi(place: ExchangeRoom) -> None:
    if not SDK.exists():
        unavailable("the SDKs need: make sdks")
    client_id, subject = await add_connected_person(place, "frameworks-of-the-page")
    found = [filled_in(one, place.url, client_id) for one in blocks(PYTHON, "python") if "AdminClient" not in one]
    found = [one.replace("scopes=[...]", f'scopes=["{EVENTS}"]').replace("invoke(...)", "invoke({})") for one in found]
    assert len(found) == 3
    process = await asyncio.create_subprocess_exec(
        SDK, str(ROOT / "tests/sdks/run_page.py"),
        env=os.environ | {
            "PLACE": json.dumps({"blocks": found, "subject": subject}),
            "PYTHONPATH": str(ROOT / "clients/python"),
        },
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(100):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert json.loads(out) == {
        "tool arguments": ["channel", "text"],
        "tool": None,  # what the page's function returns, not a link
        "token": [EVENTS],
        "without a token": 401,
        "events": 200,
    }


@pytest.mark.group("node")
@pytest.mark.parametrize("page", [GUIDE, TYPESCRIPT], ids=lambda path: path.parent.name)
async def test_the_typescript_block_gets_a_token(
    place: ExchangeRoom,
    dist: Path,
    tmp_path: Path,
    page: Path,
) -> None:
    client_id, subject = await add_connected_person(place, f"typescript-{page.parent.name}")
    package = tmp_path / "node_modules/token-vault-client"
    shutil.copytree(dist, package / "dist")
    shutil.copy(ROOT / "clients/typescript/package.json", package)  # whose exports the block's import uses
    (text,) = blocks(page, "ts")
    line, rest = text.split("\n", 1)
    given = f'const clientId = "{client_id}", clientSecret = "{SECRET}", scopes = ["{EVENTS}"];\n'
    given += f'const usersAccessToken = "{subject}";\n'
    program = f"{line}\n{given}{filled_in(rest, place.url, client_id)}\nconsole.log(token.scopes.join());\n"
    (tmp_path / "block.mjs").write_text(program, encoding="utf-8")
    assert (await run_node(tmp_path, str(tmp_path / "block.mjs"))).strip() == EVENTS
