"""The structure of the product: one class per name, functions that are verbs or nouns, folders of readable size."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
ROOMS: Final = ("vault", "providers", "server")
# Participles that don't end in -ed. Verbs with the same plain form (read, put, run, cut, split) are left out.
IRREGULAR: Final = re.compile(
    r"begun|borne|bound|bought|broken|brought|built|caught|chosen|done|drawn|driven|fallen|felt"
    r"|forgotten|found|frozen|given|gone|got|grown|heard|held|hidden|kept|known|laid|led"
    r"|left|lost|made|meant|met|paid|said|seen|sent|shown|sold|sought|spent|spoken"
    r"|stolen|stood|struck|taken|thought|thrown|told|understood|withdrawn|won|worn|written"
)
# word -> why it isn't a participle
NO_PARTICIPLES: Final = {
    "beginning": "the noun",
    "bring": "the verb",
    "ending": "the noun: what is written when an attempt ends (`vault.refresh.attempts.Ending`)",
    "feed": "the verb",
    "listing": "the noun: `server.terminal.listing.Listing`",
    "proceed": "the verb",
    "seed": "the verb",
}
NOUNS_IN_ING: Final = {
    "binding",
    "finding",
    "keyring",
    "listing",
    "narrowing",
    "nothing",
    "ping",
    "setting",
    "sighting",
    "wording",
}


@dataclass
class Names:
    """What one module names, nested functions and classes too."""

    functions: set[str] = field(default_factory=set[str])
    classes: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])  # with their lines
    variables: set[str] = field(default_factory=set[str])  # and parameters
    bare_statuses: list[int] = field(default_factory=list[int])


@cache
def source_of(path: Path) -> str:
    """Read once for all tests."""
    return path.read_text(encoding="utf-8")


@cache
def names_of(path: Path) -> Names:
    """Parsed once for all tests, and only where a test found a candidate: parsing every module takes seconds."""
    return names_in(source_of(path))


def functions_of(path: Path) -> set[str]:
    """The functions of a module if any of them may be named by a bare participle."""
    lines = re.findall(r"\bdef\s+(\w+)", source_of(path))
    return names_of(path).functions if any(map(is_bare_participle, lines)) else set()


def classes_of(path: Path) -> list[str]:
    """What follows the word `class` in a source: its classes, and perhaps some words of a text."""
    return re.findall(r"\bclass\s+(\w+)", source_of(path))


def names_in(source: str) -> Names:
    """The names of one module, and the lines that compare a status with a bare number."""
    found = Names()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.functions.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found.classes.append((node.name, node.lineno))
        elif isinstance(node, ast.Name):
            found.variables.add(node.id)
        elif isinstance(node, ast.arg):
            found.variables.add(node.arg)
        elif isinstance(node, ast.Compare) and compares_bare_status(node):
            found.bare_statuses.append(node.lineno)
    return found


def is_bare_participle(name: str) -> bool:
    """One word that says what was or is being done, instead of what the function does or returns."""
    word = name.strip("_")
    if "_" in word or word in NO_PARTICIPLES:
        return False
    return IRREGULAR.fullmatch(word) is not None or word.endswith(("ed", "ing"))


def is_participle_of_a_class(name: str) -> bool:
    """A class name of one word that says what was done to something, instead of what it is."""
    word = name.strip("_")
    is_one_word = re.fullmatch(r"[A-Z][a-z]+", word) is not None
    return is_one_word and word.lower() not in NOUNS_IN_ING and is_bare_participle(word.lower())


def product() -> list[Path]:
    """Every module of the product."""
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def own_tests() -> list[Path]:
    """Every module below `tests`, where third-party packages may be, too."""
    return [path for path in sorted((ROOT / "tests").rglob("*.py")) if "node_modules" not in path.parts]


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("_refused", True), ("made", True), ("undoing", True), ("record_refusal", False), ("read", False)],
)
def test_a_bare_participle_is_told_from_a_verb(name: str, is_one: bool) -> None:
    assert is_bare_participle(name) is is_one


def test_no_function_is_named_by_a_bare_participle() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in [*product(), *own_tests()]
        for name in functions_of(path)
        if is_bare_participle(name)
    }
    assert not found, "name what it does (a verb) or returns (a noun)"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("_Fetched", True),
        ("Found", True),
        ("Asking", True),
        ("FoundEvents", False),
        ("Finding", False),
        ("Feed", False),
    ],
)
def test_a_class_named_by_a_participle_is_told_from_a_noun(name: str, is_one: bool) -> None:
    assert is_participle_of_a_class(name) is is_one


def test_no_class_is_named_by_a_bare_participle() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in [*product(), *own_tests()]
        if any(map(is_participle_of_a_class, classes_of(path)))
        for name, line in names_of(path).classes
        if is_participle_of_a_class(name)
    }
    assert not found, "name what it is: a noun"


def is_past_participle(name: str) -> bool:
    """A module name of one word that says what was done to something, instead of what it is."""
    return is_bare_participle(name) and not name.endswith("ing")


@pytest.mark.parametrize(
    ("name", "is_one"), [("declared", True), ("known", True), ("declared_tools", False), ("signing", False)]
)
def test_a_module_named_by_a_past_participle_is_told_from_a_noun(name: str, is_one: bool) -> None:
    assert is_past_participle(name) is is_one


def test_no_module_is_named_by_a_past_participle() -> None:
    found = [path.relative_to(ROOT).as_posix() for path in [*product(), *own_tests()] if is_past_participle(path.stem)]
    assert not found, "name what is inside: a noun, or the field's word"


def test_a_request_is_called_a_request() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in product()
        if "wish" in source_of(path).lower()
        for names in [names_of(path)]
        for name in {*names.functions, *(name for name, _ in names.classes), *names.variables}
        if "wish" in name.lower()
    }
    assert not found, "use the field's word: request"


def test_no_two_classes_have_one_name() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    counts = Counter(name for path in product() for name in classes_of(path))
    assert len(counts) > 300
    for path in product():
        if any(counts[name] > 1 for name in classes_of(path)):
            for name, line in names_of(path).classes:
                places[name].append(f"{path.relative_to(ROOT)}:{line}")
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_no_folder_holds_more_than_25_modules_and_no_module_more_than_600_lines() -> None:
    folders: defaultdict[str, int] = defaultdict(int)
    modules = [*product(), *own_tests()]
    for path in modules:
        folders[path.parent.relative_to(ROOT).as_posix()] += path.name != "__init__.py"
    assert len(folders) > 100
    assert not {folder: count for folder, count in folders.items() if count > 25}, "look for the subject that can leave"
    lengths = {path.relative_to(ROOT).as_posix(): source_of(path).count("\n") for path in modules}
    assert not {name: length for name, length in lengths.items() if length > 600}, "look for the seam"


def compares_bare_status(node: ast.Compare) -> bool:
    """Whether this compares a status with a bare number for equality; ranges such as `>= 500` have no name."""
    sides = [node.left, *node.comparators]
    numbers = [one.value for side in sides for one in ast.walk(side) if isinstance(one, ast.Constant)]
    if not any(type(one) is int and 100 <= one < 600 for one in numbers):
        return False
    is_equality = all(isinstance(one, EQUALITIES) for one in node.ops)
    return is_equality and any(STATUS.search(ast.unparse(side)) for side in sides)


EQUALITIES: Final = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
STATUS: Final = re.compile(r"(?:^|[._])status(?:_code)?$")


@pytest.mark.parametrize(
    ("condition", "is_one"),
    [
        ("answer.status == 401", True),
        ("status_code not in {200, 204}", True),
        ("answer.status == HTTPStatus.UNAUTHORIZED", False),
        ("answer.status >= 500", False),
        ("len(text) == 401", False),
    ],
)
def test_a_bare_status_is_told_from_a_named_one(condition: str, is_one: bool) -> None:
    assert bool(names_in(condition).bare_statuses) is is_one


def test_a_status_is_compared_by_its_name() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        if "simulator" not in path.parts  # it simulates services whose documents give numbers
        if re.search(r"\b[1-5]\d\d\b", source_of(path)) is not None and "status" in source_of(path)
        for line in names_of(path).bare_statuses
    ]
    assert not found, f"name these with http.HTTPStatus: {found}"
