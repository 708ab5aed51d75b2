"""`token-vault apply` with rules and the imported APIs whose tools they name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.policy.rule_folder import hold
from server.remote.servers import key_of
from tests.conftest import Store
from tests.support.commands import run
from tests.support.processes import Place
from vault.mcp import servers

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
CONNECT = """
    insert into connections (tenant, id, user_id, provider, account, label, scopes, state, generation, metadata,
        created_at)
    values ('default', 'c', 'u', 'tickets', 'a', 'a', '', 'active', 1, '{}', 1)
"""
DISCONNECT = "delete from connections where id = 'c'"


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

    async def second_import(self) -> ImportFile:
        """The same description under another name, reviewed."""
        return await review_import(self.place, self.file, self.folder, self.shadow, "issues")

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
    return await review_import(place, tmp_path / "vault.toml", folder, shadow, "tickets")


async def review_import(place: Place, file: Path, folder: Path, shadow: Path, name: str) -> ImportFile:
    waiting = f'[imported_apis.{name}]\ndocument_file = "api.json"\n'
    file.write_text(waiting)
    planned = json.loads((await run(place, "apply", str(file), "--plan", "--json")).stdout)["changes"][0]
    (tool,) = (one for one in planned["differences"] if one.startswith(f"{name}_"))
    digest = planned["differences"]["import"]["after"]
    reviewed = f'{waiting}reviewed = "{digest}"\ntools = {{ {tool} = "accept" }}\n'
    return ImportFile(file, folder, shadow, reviewed, tool, place)


async def change_database(place: Place, statement: str) -> None:
    database = await Store(f"sqlite://{place.data / 'vault.sqlite'}", place.data).open()
    try:
        async with database.transaction() as transaction:
            await transaction.execute(statement, {})
    finally:
        await database.close()


async def store_server(place: Place, name: str) -> None:
    """An MCP server with one accepted tool, as an operator's review leaves it."""
    how_called = key_of("open", "")
    assert how_called is not None
    offered = {"note": json.dumps({"inputSchema": {"type": "object"}, "name": "note"}, sort_keys=True)}
    database = await Store(f"sqlite://{place.data / 'vault.sqlite'}", place.data).open()
    try:
        async with database.transaction() as transaction:
            now, url = database.now(), "https://notes.example/mcp"
            facts = how_called.facts()
            assert await servers.add_server(transaction, name, url=url, title=name, facts=facts, by="", now=now)
            held = await servers.hold(transaction, name)
            assert held is not None
            await servers.see(transaction, held, offered, by="", now=now)
            accepted = {"note": servers.Acceptance("update", asks=False, reviewed=offered["note"])}
            assert await servers.accept(transaction, held, accepted, by="", now=now) == ()
    finally:
        await database.close()


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


async def test_an_import_and_a_rule_about_its_tool_are_applied_together(import_file: ImportFile) -> None:
    waiting = import_file.reviewed.replace("reviewed", "# reviewed").replace("tools", "# tools")
    for options in (("--plan",), ()):
        code, said = await import_file.apply(waiting + import_file.policies, *options)
        assert (code, "unrecognized action" in said) == (1, True)
        assert said.endswith("Nothing was changed.\n")
    assert await import_file.usable() == []
    code, said = await import_file.apply(import_file.reviewed + import_file.policies, "--plan")
    assert code == 2, said
    assert list(import_file.folder.glob("*.cedar")) == []
    code, said = await import_file.apply(import_file.reviewed + import_file.policies)
    assert code == 0, said
    assert "+ policy tickets.cedar" in said
    assert "+ imported_api tickets" in said
    assert (import_file.folder / "tickets.cedar").read_text() == import_file.rule
    assert await import_file.usable() == ["tickets"]
    assert (await run(import_file.place, "policy", "check")).exit_code == 0
    assert await import_file.apply(import_file.reviewed + import_file.policies) == (0, "Nothing to change.\n")


async def test_an_import_that_was_made_before_its_rules_is_mentioned(import_file: ImportFile) -> None:
    together = import_file.reviewed + import_file.policies
    with hold(import_file.folder):
        code, said = await import_file.apply(together)
    assert code == 1
    assert "are being changed: run this again. Already changed: imported_apis (tickets)" in said
    assert await import_file.usable() == ["tickets"]
    code, said = await import_file.apply(together)
    assert (code, "imported_api" in said) == (0, False)
    assert await import_file.usable() == ["tickets"]


async def test_an_import_keeps_what_the_earlier_rules_name_until_they_change(import_file: ImportFile) -> None:
    """The rules change after the import, so both must fit the import."""
    assert (await import_file.apply(import_file.reviewed + import_file.policies))[0] == 0
    document = json.loads(json.dumps(DESCRIPTION).replace("listTickets", "findTickets").replace("/tickets", "/found"))
    (import_file.file.parent / "api.json").write_text(json.dumps(document))
    waiting = '[imported_apis.tickets]\ndocument_file = "api.json"\n'
    import_file.file.write_text(waiting)
    planned = await run(import_file.place, "apply", str(import_file.file), "--plan", "--json")
    differences = json.loads(planned.stdout)["changes"][0]["differences"]
    (tool,) = (one for one in differences if one.startswith("tickets_") and one != import_file.tool)
    changed = f'{waiting}reviewed = "{differences["import"]["after"]}"\n'
    code, said = await import_file.apply(changed + import_file.policies.replace(import_file.tool, tool))
    assert (code, f"The rule no-lists names {import_file.tool}. Change the rule first." in said) == (1, True), said
    assert (await import_file.apply("[policies]\n", "--prune"))[0] == 0
    code, said = await import_file.apply(changed + import_file.policies.replace(import_file.tool, tool))
    assert code == 0, said
    assert await import_file.usable() == ["tickets"]


async def test_an_import_and_the_rule_about_it_are_replaced_together(import_file: ImportFile) -> None:
    assert (await import_file.apply(import_file.reviewed + import_file.policies))[0] == 0
    issues = await import_file.second_import()
    both = f"{issues.rule}\n{import_file.rule.replace('no-lists', 'still')}"
    for options in (("--prune", "--plan"), ("--prune",)):
        code, said = await issues.apply(f"{issues.reviewed}[policies.tickets]\nrules = '''{both}'''\n", *options)
        assert (code, f"The rule still names {import_file.tool}. Change the rule first." in said) == (1, True), said
    assert await issues.usable() == ["tickets"]
    (issues.shadow / "tickets.cedar").write_text(import_file.rule)
    code, said = await issues.apply(issues.reviewed + issues.policies, "--prune")
    assert (code, f"The rule no-lists names {import_file.tool}. Change the rule first." in said) == (1, True), said
    assert await issues.usable() == ["tickets"]
    (issues.shadow / "tickets.cedar").unlink()
    assert (await issues.apply(issues.reviewed + issues.policies, "--prune", "--plan"))[0] == 2
    code, said = await issues.apply(issues.reviewed + issues.policies, "--prune")
    assert (code, "- imported_api tickets" in said) == (0, True), said
    assert (issues.folder / "tickets.cedar").read_text() == issues.rule
    assert await issues.usable() == ["issues"]
    assert await issues.apply(issues.reviewed + issues.policies, "--prune") == (0, "Nothing to change.\n")


@pytest.mark.parametrize("stops_before", ["rules", "removal"])
async def test_an_interrupted_replacement_leaves_a_vault_that_starts(
    import_file: ImportFile, stops_before: str
) -> None:
    assert (await import_file.apply(import_file.reviewed + import_file.policies))[0] == 0
    issues = await import_file.second_import()
    together = issues.reviewed + issues.policies
    if stops_before == "rules":
        with hold(issues.folder):
            code, said = await issues.apply(together, "--prune")
        assert (code, "Already changed: imported_apis (issues)" in said) == (1, True), said
        rule = import_file.rule
    else:
        await change_database(issues.place, CONNECT)
        code, said = await issues.apply(together, "--prune")
        assert (code, "Accounts still connected to tickets: 1" in said) == (1, True), said
        await change_database(issues.place, DISCONNECT)
        rule = issues.rule
    assert (issues.folder / "tickets.cedar").read_text() == rule
    assert sorted(await issues.usable()) == ["issues", "tickets"]
    code, said = await issues.apply(together, "--prune")
    assert (code, "- imported_api tickets" in said) == (0, True), said
    assert await issues.usable() == ["issues"]


@pytest.mark.parametrize("is_interrupted", [False, True])
async def test_a_server_and_the_rule_about_it_are_replaced_by_an_import(
    import_file: ImportFile, is_interrupted: bool
) -> None:
    await store_server(import_file.place, "notes")
    rule = import_file.rule.replace(import_file.tool, "notes_note")
    code, said = await import_file.apply(f"[policies.tickets]\nrules = '''{rule}'''\n")
    assert code == 0, said
    both = f"{import_file.rule}\n{rule.replace('no-lists', 'still')}"
    kept = f"[policies.tickets]\nrules = '''{both}'''\n"
    for options in (("--prune", "--plan"), ("--prune",)):
        code, said = await import_file.apply(f"{import_file.reviewed}[mcp_servers]\n{kept}", *options)
        assert (code, "The rule still names a tool of notes. Change the rule first." in said) == (1, True), said
    assert await import_file.usable() == []
    together = f"{import_file.reviewed}[mcp_servers]\n{import_file.policies}"
    if is_interrupted:
        with hold(import_file.folder):
            code, said = await import_file.apply(together, "--prune")
        assert (code, "Already changed: imported_apis (tickets)" in said) == (1, True), said
        assert (import_file.folder / "tickets.cedar").read_text() == rule
        assert await import_file.usable() == ["tickets"]
    code, said = await import_file.apply(together, "--prune")
    assert (code, "- mcp_server notes" in said) == (0, True), said
    assert await import_file.usable() == ["tickets"]
    assert (await run(import_file.place, "policy", "check")).exit_code == 0
