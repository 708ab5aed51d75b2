"""`errors CODE`: what a code means, on each surface that has it."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from typer.testing import CliRunner, Result

from server.cli import app
from server.commands.errors.texts import ADMIN

ROOT: Final = Path(__file__).parents[2]


def run(*command: str) -> Result:
    return CliRunner().invoke(app, ["errors", *command])


def test_a_code_is_explained_at_each_surface_that_has_it() -> None:
    said = run("upstream_unauthorized", "--json")
    assert said.exit_code == 0, said.output
    assert set(json.loads(said.stdout)["meanings"]) == {"the vault", "tools", "the proxy"}
    assert "Check first" not in run("upstream_unauthorized").stdout


def test_a_call_that_might_have_been_carried_out_is_explained() -> None:
    assert run("timeout").stdout.endswith("Check first: a write might have been carried out.\n")


def test_a_code_without_a_description_may_be_the_providers_and_a_near_one_is_named() -> None:
    refused = run("call_not_alowed")
    assert refused.exit_code == 1
    assert "it may be the provider's own code" in refused.stderr
    assert "Did you mean call_not_allowed?" in refused.stderr


def test_a_negative_number_is_a_code_after_two_dashes() -> None:
    assert "Not JSON" in run("--", "-32700").stdout


def test_a_code_of_the_admin_api_is_not_called_the_providers() -> None:
    assert "isn't a code of this vault" not in run("import_refused").stderr
    assert "`--url`" in run("vault_unreachable").stdout


def test_every_code_of_the_admin_api_is_explained() -> None:
    listed = {code for codes in ADMIN for code in codes.split(", ")}
    raised = set(codes_raised())
    assert {"no_group", "last_admin", "too_many_requests"} <= raised
    assert raised - listed == set()
    assert listed - raised == {"invalid_token", "key_not_proved", "chain_broken"}  # of tokens, and of the vault
    assert "token-vault panic" in run("still_connected").stdout


def codes_raised() -> Iterator[str]:
    """The first argument of each refusal of the Admin API in the source."""
    for path in (ROOT / "server").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)) if "Refused" in source else ():
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or not node.args:
                continue
            if node.func.id in {"ChangeRefused", "ApiRefused", "ProofRefused"}:
                first = node.args[0]
                options = (first.body, first.orelse) if isinstance(first, ast.IfExp) else (first,)
                yield from (
                    one.value for one in options if isinstance(one, ast.Constant) and isinstance(one.value, str)
                )
