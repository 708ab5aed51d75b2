"""Every command that takes a file says in one line why it can't be used."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Final

import pyrage
import pytest
import typer
from click import unstyle
from typer.testing import CliRunner, Result

from server.administration.sealed_files import seal
from server.cli import app
from server.terminal.context import Setup, command
from tests.support.processes import Place

ALL: Final = ("absent", "folder", "binary")
ENDED: Final = ("absent", "binary")  # a folder is right, if only an empty one
EXPORTED: Final = b'{"format": "token-vault-accounts", "version": 1, "accounts": []}'
AGE: Final = "age1xmwwc06ly3ee5rytxm9mflaz2u56jjj36s0mypdrwsvlul66mv4q47ryef"
DOCUMENT: Final = (
    '{"openapi": "3.1.0", "info": {"title": "Own", "version": "1"}, "servers": [{"url": "https://api.example"}], '
    '"paths": {"/things": {"get": {"operationId": "list_things", "responses": {"200": {"description": "All.", '
    '"content": {"application/json": {"schema": {"type": "object", "properties": {"id": {"type": "string"}}}}}}}}}}}'
)
# For each parameter a command line, and what is unusable there. FILE is the unusable file, RECORDS an ordinary one.
FILES: Final[Mapping[str, tuple[str, Sequence[str]]]] = {
    "apply file": ("apply FILE", ALL),
    "backup file": ("backup FILE/made.backup", ENDED),
    "backup passphrase_file": ("backup made.backup --passphrase-file FILE", ALL),
    "restore file": ("restore FILE", ("absent", "folder")),  # a binary file isn't a backup, which is said
    "restore passphrase_file": ("restore BACKUP --passphrase-file FILE", ALL),
    "export file": (f"export FILE/made.age --to {AGE}", ENDED),
    "activity verify checkpoint": ("activity verify --checkpoint FILE", ALL),
    "activity prove output": ("activity prove 1 --output FILE", ("folder",)),
    "activity export output": ("activity export --output FILE", ("folder",)),
    "activity export position": ("activity export --to tcp://127.0.0.1:PORT --position FILE", ("folder", "binary")),
    "clients add key": ("clients add x --exchange --key FILE", ALL),
    "connections connect credential": ("connections connect a-leads --user alice --credential FILE", ALL),
    "import csv file": ("import csv FILE", ALL),
    "import auth0 file": ("import auth0 FILE", ALL),
    "import auth0 people": ("import auth0 RECORDS --people FILE", ALL),
    "import nango file": ("import nango FILE", ALL),
    "import nango people": ("import nango RECORDS --people FILE", ALL),
    "import better-auth file": ("import better-auth FILE", ALL),
    "import better-auth people": ("import better-auth RECORDS --people FILE", ALL),
    "import contextforge file": ("import contextforge FILE", ALL),
    "import contextforge secret_file": ("import contextforge RECORDS --secret-file FILE", ALL),
    "import contextforge people": ("import contextforge RECORDS --people FILE", ALL),
    "import composio file": ("import composio FILE", ALL),
    "import composio people": ("import composio RECORDS --people FILE", ALL),
    "import token-vault file": ("import token-vault FILE --key KEY", ALL),
    "import token-vault key": ("import token-vault SEALED --key FILE", ALL),
    "import token-vault people": ("import token-vault SEALED --key KEY --people FILE", ALL),
    "providers check file": ("providers check FILE", ALL),
    "tools check file": ("tools check FILE", ALL),
    "tools import openapi to": ("tools import openapi DOCUMENT --name own --to FILE", ("binary",)),
    "tools import graphql to": (
        "tools import graphql SCHEMA --name own --server https://api.example/graphql --to FILE",
        ("binary",),
    ),
    "policy check folder": ("policy check --folder FILE", ENDED),
    "policy test folder": ("policy test --folder FILE", ENDED),
    "policy explain folder": ("policy explain slack_post --folder FILE", ENDED),
    "policy replay folder": ("policy replay --folder FILE", ENDED),
    "receipts verify file": ("receipts verify FILE", ALL),
    "receipts verify keys": ("receipts verify RECEIPT --keys FILE", ALL),
}


def paths_of(commands: typer.Typer, *names: str) -> Iterator[str]:
    """Each parameter that is a path, after the command's name; not the options of all commands."""
    for one in commands.registered_commands:
        assert one.callback is not None
        for parameter in inspect.signature(one.callback).parameters.values():
            if "Path" in str(parameter.annotation) and parameter.name not in {"config", "data"}:
                yield " ".join([*names, one.name or "", parameter.name])
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            yield from paths_of(group.typer_instance, *names, group.name or "")


def test_every_parameter_that_is_a_path_is_tried_here() -> None:
    assert sorted(paths_of(app)) == sorted(FILES)


def write_files() -> None:
    """The files that the command lines name, in the working directory."""
    key = pyrage.x25519.Identity.generate()
    Path("RECORDS").write_text("[]", encoding="utf-8")
    Path("DOCUMENT").write_text(DOCUMENT, encoding="utf-8")
    Path("SCHEMA").write_text("type Query { thing(id: ID!): String }", encoding="utf-8")
    Path("RECEIPT").write_text("a.b.c", encoding="utf-8")
    Path("KEY").write_text(f"{key}\n", encoding="utf-8")
    Path("SEALED").write_bytes(seal(EXPORTED, recipients=(str(key.to_public()),)))
    Path("PHRASE").write_text("a long enough passphrase", encoding="utf-8")
    Path("PHRASE").chmod(0o600)
    Path("folder").mkdir()
    Path("binary").write_bytes(b"\xff\xfe\x00binary")
    Path("binary").chmod(0o600)


async def run(place: Place, line: str) -> Result:
    arguments = [*line.split(), "--data", str(place.data)]
    return await asyncio.to_thread(CliRunner().invoke, app, arguments, env={"COLUMNS": "400"})


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, (_, kinds) in FILES.items() for kind in kinds])
async def test_an_unusable_file_is_named_with_the_reason(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files()
    line = FILES[name][0]
    if "--checkpoint" in line:
        assert (await run(place, "activity checkpoint")).exit_code == 0
    if "BACKUP" in line or "prove" in line:  # a backup is an event
        assert (await run(place, "backup BACKUP --passphrase-file PHRASE")).exit_code == 0
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        found = await run(place, line.replace("PORT", str(listening.getsockname()[1])).replace("FILE", kind))
    assert isinstance(found.exception, SystemExit), repr(found.exception)
    assert found.exit_code == 1
    said = unstyle(found.output).splitlines()[-1]
    assert kind in said
    assert "Errno" not in said
    assert "codec" not in said


async def test_a_backup_that_cannot_be_written_names_the_given_file(place: Place, tmp_path: Path) -> None:
    long = tmp_path / ("a" * 250)  # the partial file's name is too long
    found = await run(place, f"backup {long}")
    assert found.exit_code == 1
    assert f"can't write {long}: File name too long" in unstyle(found.output)


def test_only_a_file_that_the_command_line_names_is_told_without_a_traceback(tmp_path: Path) -> None:
    app = typer.Typer()
    command(app, "read")(read_both)
    runner, other = CliRunner(), tmp_path / "other"
    told = runner.invoke(app, [str(tmp_path / "named"), str(other)])
    assert isinstance(told.exception, SystemExit)
    assert "named: No such file or directory" in told.output
    (tmp_path / "named").touch()
    ours = runner.invoke(app, [str(tmp_path / "named"), str(other)])
    assert isinstance(ours.exception, FileNotFoundError)
    assert ours.exception.filename == str(other)


def read_both(setup: Setup, file: Annotated[Path, typer.Argument()], other: Annotated[str, typer.Argument()]) -> None:
    """Read the named file, then one that stands for a file of the program."""
    file.read_bytes()
    Path(other).read_bytes()
