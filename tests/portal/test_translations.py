"""English texts that are written in code have a German version: refusals, titles and sentences of tools, scopes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

from providers.definitions import unruled_rules
from providers.definitions.catalog import SHELF, load_catalog, read_provider
from providers.tools.builtin import builtin_tools
from providers.tools.sets import builtin_sets
from server.connecting.provider_errors import _UNKNOWN as UNKNOWN  # pyright: ignore[reportPrivateUsage]
from server.connecting.provider_errors import FIXES, no_refresh_token
from server.http import page_texts
from server.http.translations import translate, translate_filled, with_language
from server.programs.hosted import sandbox
from server.programs.hosted.sandbox import SandboxProblem
from server.setup.provider_consoles import guide_for, id_problem, secret_problem
from tests.generating.shipped_tools import shipped_tools

ROOT = Path(__file__).parents[2]
# Where code raises refusals that a page can show. Elsewhere they are only for operators, programs, and agents.
ROOMS = (
    "vault",
    "server/connecting",
    "server/sign_in",
    "server/oauth/authorize.py",
    "server/oauth/authorization_request.py",
    "server/secret_sources/entered_references.py",
    "server/remote/imported_apis.py",
    "server/remote/servers.py",
    "providers/remote/authorization.py",
)
FOR_OPERATORS = (
    "vault/audit",
    "vault/backup",
    "vault/storage",
    "vault/keys",
    "vault/refresh/journal",
    "vault/upkeep/health",
    "vault/upkeep/key_rotation",
)
SHOWN_THERE = ("vault/keys/passwords.py",)
REFUSAL = re.compile(
    r"\w*(Refused|Required|Unavailable|Ended|Taken|Throttled|Passkeys|Exists|Rejected|Offered|AuthorizationUnknown)|_(import|server)_refusal"
)
OTHERS = {"PageRefused", "SettingsRefused", "StorageUnavailable", "Refused", "CandidateRefused", "ChangeRefused"}
FOR_COMMANDS = {"check_providers", "_lacks"}  # of the doctor; no page shows what they find
STORED = re.compile(r"a stored \w+ cannot be read|a sealed value doesn't open|.* already exists")


@cache
def german() -> Mapping[str, str]:
    return {
        english: there
        for section in page_texts.read("sentences.de.toml").values()
        for english, there in section.items()
    }


def modules() -> list[Path]:
    found = [
        path for room in ROOMS for path in ([ROOT / room] if room.endswith(".py") else (ROOT / room).rglob("*.py"))
    ]
    names = {path: str(path.relative_to(ROOT)) for path in found}
    return [path for path, name in sorted(names.items()) if name in SHOWN_THERE or not name.startswith(FOR_OPERATORS)]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def refusals_of(tree: ast.AST) -> Iterator[str]:
    """The sentences of refusals: of classes with such names, called with a text or with a name for one."""
    for scope in ast.walk(tree):
        if not isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
            continue
        assigned: dict[str, list[ast.expr]] = {}
        for node in ast.walk(scope):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                assigned.setdefault(node.targets[0].id, []).append(node.value)
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                assigned.setdefault(node.target.id, []).append(node.value)
        for node in ast.walk(scope):
            if isinstance(node, ast.Call) and is_refusal(node) and node.args:
                yield from sentences_in(node.args[0], assigned)


def is_refusal(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return REFUSAL.fullmatch(name) is not None and name not in OTHERS


def sentences_in(node: ast.expr, assigned: Mapping[str, Sequence[ast.expr]]) -> Iterator[str]:
    """The texts that an expression can have, with `{0}`, `{1}` for the values."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            number = iter(range(len(parts)))
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else f"{{{next(number)}}}" for part in parts
            )
        case ast.IfExp(body=body, orelse=other):
            yield from sentences_in(body, assigned)
            yield from sentences_in(other, assigned)
        case ast.Name(id=name) if name in assigned:
            for value in assigned[name]:
                yield from sentences_in(value, {})
        case _:
            return


@cache
def sentences() -> frozenset[str]:
    found = {one for path in modules() for one in refusals_of(tree_of(path))}
    return frozenset(one for one in found if one and not STORED.fullmatch(one) and not re.fullmatch(r"[{}0-9 .]*", one))


def test_every_refusal_that_a_page_can_show_has_its_german_with_the_same_values() -> None:
    assert len(sentences()) > 90
    assert sorted(one for one in sentences() if one not in german()) == [], "add these to sentences.de.toml"


def findings() -> frozenset[str]:
    """The sentences and fixes of checks whose findings an administration page shows."""
    found: set[str] = set()
    for name in ("database", "refreshes", "providers", "authorize_page"):
        for scope in ast.walk(ast.parse((ROOT / "server" / "doctor" / f"{name}.py").read_text("utf-8"))):
            if not isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef) or scope.name in FOR_COMMANDS:
                continue
            assigned: dict[str, list[ast.expr]] = {}
            for node in ast.walk(scope):
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    assigned.setdefault(node.targets[0].id, []).append(node.value)
                if isinstance(node, ast.Return) and scope.name == "fix_of_client" and node.value is not None:
                    found |= set(sentences_in(node.value, {}))
            for node in ast.walk(scope):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"ok", "note", "problem", "say"}:
                    for said in (*node.args[1:2], *(one.value for one in node.keywords if one.arg == "fix")):
                        found |= set(sentences_in(said, assigned))
    return frozenset(found)


def sandbox_problems() -> frozenset[str]:
    """The sentences and fixes of problems that keep a local server from running."""
    module = ast.parse((ROOT / "server" / "programs" / "hosted" / "sandbox.py").read_text("utf-8"))
    constants = {
        one.target.id: [one.value]
        for one in module.body
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and one.value is not None
    }
    calls = [one for one in ast.walk(module) if isinstance(one, ast.Call)]
    return frozenset(
        said
        for one in calls
        if getattr(one.func, "id", "") == "SandboxProblem"
        for argument in one.args
        for said in sentences_in(argument, constants)
    )


def test_why_a_program_cannot_be_run_is_translated() -> None:
    assert len(sandbox_problems()) > 15
    assert sorted(one for one in sandbox_problems() if one not in german()) == []
    problem = SandboxProblem("bubblewrap isn't installed", sandbox._INSTALL)
    english = f"chat can't be run here: {problem.sentence}. To fix this: {problem.fix}."
    with page_texts.use_language("de"):
        there = translate_filled(english)
    assert there.startswith("chat lässt sich hier nicht ausführen: bubblewrap ist nicht installiert. Abhilfe: Inst")


def test_what_the_doctor_finds_is_translated_for_the_administration_s_pages() -> None:
    assert len(findings()) >= 40
    with page_texts.use_language("de"):
        assert sorted(one for one in findings() if translate_filled(re.sub(r"[{]\d[}]", "x", one)) == one) == []


@pytest.mark.parametrize("service", ["google", "slack", "github", "microsoft", "square", ""])
def test_why_a_registration_cannot_be_right_is_translated(service: str) -> None:
    ids = ("", "GOCSPX-1", "xoxb-1", "ghp_1", "sq0csp-1", "x.apps.googleusercontent.com", "1234567.1234567", "x")
    problems = {id_problem(service, one) for one in ids}
    problems |= {secret_problem(one, service=service, client_id="x") for one in ids}
    problems |= {secret_problem("1-2", service=service, client_id="1-2")}
    told = problems - {None}
    assert len(told) > 4
    with page_texts.use_language("de"):
        assert [one for one in told if one is not None and translate_filled(one) == one] == []


def test_what_a_provider_s_error_means_is_translated() -> None:
    texts = {*FIXES.values(), UNKNOWN, *(no_refresh_token(name, title="{title}") for name in ("slack", "asana"))}
    for text in texts:
        filled = text.replace("{title}", "Ex").replace("{name}", "ex").replace("{redirect}", "https://a.example/b")
        with page_texts.use_language("de"):
            assert translate_filled(filled) != filled, text


@pytest.mark.parametrize("is_loopback", [True, False])
def test_what_to_do_at_a_console_is_translated(is_loopback: bool) -> None:
    url = "http://localhost:8765" if is_loopback else "https://vault.internal"
    tools = builtin_tools()
    guides = [guide_for(one, tools, public_url=url, is_loopback=is_loopback) for one in load_catalog().all_providers()]
    words = {text for one in guides for text in (*one.steps, *(said for said in one.warnings if "--" not in said))}
    assert len(words) > 400
    with page_texts.use_language("de"):
        assert [one for one in sorted(words) if with_language(one)[1]] == [], "add these to sentences.de.toml"


def test_a_step_of_an_operator_s_own_file_is_marked_as_english() -> None:
    with page_texts.use_language("de"):
        assert with_language("Paste this there: x") == ("Paste this there: x", "en")
    assert with_language("Paste this there: x") == ("Paste this there: x", "")


def test_titles_and_sentences_of_tools_and_titles_of_scopes_are_translated() -> None:
    tools = [*builtin_tools(), *shipped_tools().values()]
    files = [*SHELF.rglob("*.toml"), *(ROOT / "providers" / "examples" / "providers").glob("*.toml")]
    everything = {one.title for one in tools} | {one.presentation.sentence for one in tools}
    everything |= {text for one in tools for text in (one.presentation.done, one.presentation.done_one)}
    everything |= {scope.title for file in files for scope in read_provider(file).scopes.values()}
    everything |= {read_provider(file).retired or "" for file in files}
    everything |= {
        one.title for one in builtin_sets(tools, titles={}) if one.name not in {tool.provider for tool in tools}
    }
    everything |= {unruled_rules._READ_SCOPE.title, unruled_rules._CALL_SCOPE.title}  # pyright: ignore[reportPrivateUsage]
    assert sorted(one for one in everything - {""} if one not in german()) == [], "add these to sentences.de.toml"


def test_every_tool_that_ships_says_what_it_did() -> None:
    assert [one.name for one in (*builtin_tools(), *shipped_tools().values()) if not one.presentation.done] == []


def test_a_translation_has_the_values_of_its_english() -> None:
    def places(text: str) -> list[str]:
        return sorted(re.findall(r"\{[a-z0-9_]*\}", text))

    assert [english for english, there in german().items() if places(english) != places(there)] == []


def test_nothing_is_translated_that_is_never_said() -> None:
    sections = page_texts.read("sentences.de.toml")
    said = sentences() | set(server_words())
    assert sorted(one for one in sections["refusals"] if one not in said) == []


def server_words() -> Iterator[str]:
    """Texts in the modules that are values of refusals, or that another function turns into refusals."""
    for path in modules():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Constant | ast.JoinedStr):
                yield from sentences_in(node, {})


@pytest.mark.parametrize(
    ("english", "expected"),
    [
        ("You have 20 passkeys already. Remove one that you no longer use.", "Du hast schon 20 Passkeys."),
        ("the password needs at least 12 characters; several random words work well", "mindestens 12 Zeichen"),
        ("Connecting an account needs your passkey here. Confirm with it; then you come back to this page.",
         "nötig: ein Konto verbinden. Bestätige"),
        ("GitHub refused. You didn't agree. Nothing was connected; start again.", "GitHub hat abgelehnt. Du hast"),
    ],
)  # fmt: skip
def test_a_refusal_is_recognized_with_its_values(english: str, expected: str) -> None:
    assert translate_filled(english) == english
    with page_texts.use_language("de"):
        assert expected in translate_filled(english)


@pytest.mark.parametrize("text", ["", "{0}", "Something that nobody says", "x" * 5000, "a {agent} b"])
def test_anything_else_stays_as_it_is(text: str) -> None:
    with page_texts.use_language("de"):
        assert translate(text) == translate_filled(text) == text
