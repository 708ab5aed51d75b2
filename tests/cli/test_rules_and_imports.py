"""`token-vault apply` with rules and the imported APIs whose tools they name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.commands import run
from tests.support.processes import Place

DESCRIPTION = {
    "openapi": "3.0.0",
    "info": {"title": "Tickets", "version": "1"},
    "servers": [{"url": "https://api.tickets.test"}],
    "components": {"securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-Key"}}},
    "security": [{"key": []}],
    "paths": {
        "/tickets": {
            "get": {
                "operationId": "listTickets",
                "summary": "List tickets",
                "responses": {
                    "200": {
                        "description": "ok",
                        "content": {
                            "application/json": {
                                "schema": {"type": "object", "properties": {"title": {"type": "string"}}}
                            }
                        },
                    }
                },
            }
        }
    },
}


@dataclass(frozen=True)
class ImportFile:
    """Parts of a declaration file: an import, reviewed, and a rule that names its tool."""

    file: Path
    folder: Path
    shadow: Path
    reviewed: str
    tool: str
    place: Place

    @property
    def rule(self) -> str:
        return f'@id("no-lists") forbid(principal, action == Action::"{self.tool}", resource);'

    @property
    def policies(self) -> str:
        return f"[policies.tickets]\nrules = '''{self.rule}'''\n"

    async def apply(self, text: str, *options: str) -> tuple[int, str]:
        """The exit code, and what was said."""
        self.file.write_text(text)
        done = await run(self.place, "apply", str(self.file), *options)
        return done.exit_code, done.output

    async def usable(self) -> list[str]:
        """The accepted APIs; every command that opens the vault for accounts reads the rules first."""
        assert (await run(self.place, "status")).exit_code == 0, "the vault starts"
        return [one["name"] for one in json.loads((await run(self.place, "tools", "imports", "list", "--json")).stdout)]


@pytest.fixture
async def import_file(place: Place, tmp_path: Path) -> ImportFile:
    folder, shadow = tmp_path / "rules", tmp_path / "trial"
    for one in (folder, shadow):
        one.mkdir()
    with (place.data / "config.toml").open("a", encoding="utf-8") as settings:
        settings.write(f'[policy]\nfolder = "{folder}"\nshadow_folder = "{shadow}"\n')
    (tmp_path / "api.json").write_text(json.dumps(DESCRIPTION))
    file = tmp_path / "vault.toml"
    waiting = '[imported_apis.tickets]\ndocument_file = "api.json"\n'
    file.write_text(waiting)
    planned = json.loads((await run(place, "apply", str(file), "--plan", "--json")).stdout)["changes"][0]
    (tool,) = (one for one in planned["differences"] if one.startswith("tickets_"))
    digest = planned["differences"]["import"]["after"]
    reviewed = f'{waiting}reviewed = "{digest}"\ntools = {{ {tool} = "accept" }}\n'
    return ImportFile(file, folder, shadow, reviewed, tool, place)


@pytest.mark.parametrize("where", ["folder", "shadow"])
async def test_an_api_whose_tool_a_rule_names_is_not_removed(import_file: ImportFile, where: str) -> None:
    assert (await import_file.apply(import_file.reviewed))[0] == 0
    if where == "shadow":
        (import_file.shadow / "tickets.cedar").write_text(import_file.rule)
    policies = import_file.policies if where == "folder" else "[policies]\n"
    assert (await import_file.apply(import_file.reviewed + policies))[0] == 0
    for options in (("--prune", "--plan"), ("--prune",)):
        for rules in (policies, ""):
            code, said = await import_file.apply(f"[imported_apis]\n{rules}", *options)
            assert (code, f"The rule no-lists names {import_file.tool}. Change the rule first." in said) == (1, True)
    assert await import_file.usable() == ["tickets"]
    (import_file.shadow / "tickets.cedar").unlink(missing_ok=True)
    code, said = await import_file.apply("[imported_apis]\n[policies]\n", "--prune")
    assert code == 0, said
    assert await import_file.usable() == []


async def test_unusable_rules_on_trial_keep_no_tool(import_file: ImportFile) -> None:
    assert (await import_file.apply(import_file.reviewed))[0] == 0
    (import_file.shadow / "tickets.cedar").write_text(f"{import_file.rule} forbid(")
    code, said = await import_file.apply("[imported_apis]\n[policies]\n", "--prune")
    assert code == 0, said
    assert await import_file.usable() == []
