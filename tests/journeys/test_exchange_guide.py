"""The page on token exchange, followed word by word: every block in order, and the answers that it shows."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.generating.documentation import DOCS, section
from tests.support.commands import content
from tests.support.processes import Place, end, free_port

PAGE = DOCS / "guides/token-exchange.md"
SERVING = "token-vault serve --sandbox\n"
PATIENCE = 60.0  # seconds for one block
END = "@@@ "


def blocks(kind: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@asynccontextmanager
async def program(*command: str, folder: Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run a program in an empty home, with the data directory in a variable; stop it when the block ends."""
    variables = {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "HOME": str(folder),
        "TOKEN_VAULT_DATA": str(folder / "data"),
    }
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=variables,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=2**20,
    )
    try:
        yield process
    finally:
        await end(process, patience=15)


async def read_until(process: asyncio.subprocess.Process, mark: str) -> tuple[str, str]:
    """Read the output up to the line with the mark, inclusive."""
    assert process.stdout is not None
    said = ""
    async with asyncio.timeout(PATIENCE):
        while line := (await process.stdout.readline()).decode():
            if mark in line:
                return said, line
            said += line
    raise AssertionError(f"it ended without {mark!r}: {said}")


async def type_block(shell: asyncio.subprocess.Process, block: str) -> str:
    """Run a block in the shell, which must succeed; return its output."""
    assert shell.stdin is not None
    shell.stdin.write(f"{block}\nprintf '\\n{END}%s\\n' $?\n".encode())
    said, code = await read_until(shell, END)
    assert code.strip() == f"{END}0", f"{block}{said}"
    return said


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("bash", "curl", "openssl"):
        if shutil.which(name) is None:
            unavailable(f"the guide's lines need: {name}")
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "config.toml").write_text(f"[server]\nport = {free_port()}\n")
    return tmp_path


async def test_the_page_can_be_followed_word_by_word(folder: Path) -> None:
    first, *rest = blocks("sh")
    assert first == SERVING  # it keeps running in its terminal
    answers: list[dict[str, object]] = []
    client_id = ""
    async with program(*first.split(), folder=folder) as server, program("bash", "-u", folder=folder) as shell:
        await read_until(server, "Press Ctrl+C")
        await type_block(shell, "token-vault init")  # the reader's own vault, in addition to the sandbox
        for block in rest:
            said = await type_block(shell, re.sub(r"(?<![$\w])CLIENT(_ID)?\b", client_id, block))
            registered = re.search(r"^client_id +(\S+)$", said, flags=re.MULTILINE)
            client_id = registered[1] if registered else client_id
            if block.startswith("curl "):
                answers.append(json.loads(said))
    handle, narrowed, for_api, own, introspected = answers
    (shown,) = [json.loads(block) for block in blocks("json")]
    assert handle.keys() == shown.keys()
    for name in ("issued_token_type", "token_type", "expires_in", "scope", "narrowing"):
        assert handle[name] == shown[name]
    assert str(handle["access_token"]).startswith("tvp_")
    assert narrowed["narrowing"] == "upstream"
    assert "api_base_url" not in narrowed
    assert "/proxy/" in str(for_api["api_base_url"])
    assert str(own["access_token"]).count(".") == 2
    assert introspected["active"] is True


@pytest.mark.long
async def test_the_printed_line_works_alone_and_a_second_run_ends_the_first_backend(folder: Path) -> None:
    ask = "token-vault try-exchange --sandbox --json"
    async with program("bash", "-u", folder=folder) as shell:
        refused = await type_block(shell, f"{ask} && exit 1 || true")
        assert "start the vault first: token-vault serve --sandbox" in refused
        async with program(*SERVING.split(), folder=folder) as server:
            await read_until(server, "Press Ctrl+C")
            first, second = [json.loads(await type_block(shell, f"{ask} 2>/dev/null")) for _ in range(2)]
            assert json.loads(await type_block(shell, second["curl"]))["access_token"].startswith("tvp_")
            assert json.loads(await type_block(shell, first["curl"]))["error"] == "invalid_client"
            listed = json.loads(
                await type_block(shell, 'token-vault clients list --json --data "$TOKEN_VAULT_DATA/sandbox"')
            )
            assert sorted(one["name"] for one in listed) == ["Try exchange", "Try exchange: API", "Try exchange: page"]


async def test_on_a_vault_with_real_accounts_the_first_answer_has_a_link_and_nothing_is_allowed(folder: Path) -> None:
    """The person decides what the backend may use; here, the provider isn't even set up."""
    async with program("token-vault", "serve", folder=folder) as server, program("bash", "-u", folder=folder) as shell:
        await read_until(server, "Press Ctrl+C")
        made = json.loads(await type_block(shell, "token-vault try-exchange --json 2>/dev/null"))
        assert set(made) == {"VAULT", "CLIENT_ID", "CLIENT_SECRET", "ACCESS_TOKEN", "curl"}
        answer = json.loads(await type_block(shell, made["curl"]))
        assert (answer["error"], answer["reason"]) == ("invalid_target", "not_configured")
        assert await content(Place(folder / "data", 0), "delegations", "list") == []


def test_the_page_names_every_reason() -> None:
    written = set(re.findall(r"`(\w+)`", section(PAGE, "When it does not work").text))
    assert written >= {
        "missing",
        "needs_reauth",
        "ambiguous",
        "account",
        "not_configured",
        "scopes",
        "delegation",
        "approval",
    }
