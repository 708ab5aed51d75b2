"""Read what the documentation says from Markdown, and what the product says from its models and sources."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import providers
import server
import server.mcp.transports
import server.oauth
import server.portal
import vault
from server.cli import app

ROOT = Path(__file__).parent.parent.parent


DOCS = ROOT / "docs"


PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "vault").glob("*.md")])


# with code blocks; the change log is about earlier releases, and vault/FORMATS.md has none
PAGES_WITH_BLOCKS = [
    *(path for path in PAGES if path.name not in {"CHANGELOG.md", "FORMATS.md"}),
    *sorted((ROOT / "clients").glob("*/README.md")),
    ROOT / "tests/clients/README.md",
]


COMMON = {"--config", "--data", "--json"}


Row = dict[str, str]


@dataclass(frozen=True)
class Section:
    """One heading with the text below it, and the rows of all its tables by column."""

    title: str
    text: str

    @property
    def rows(self) -> list[Row]:
        found: list[Row] = []
        header: list[str] | None = None
        for line in self.text.splitlines():
            if not line.startswith("|"):
                header = None
            elif header is None:
                header = cells(line)
            elif not set(line) <= set("|- "):
                found.append(dict(zip(header, cells(line), strict=True)))
        return found


def cells(line: str) -> list[str]:
    parts = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [part.replace("\\|", "|").strip() for part in parts]


def sections(path: Path) -> list[Section]:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    parts = re.split(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return [Section(title, body) for title, body in zip(parts[1::2], parts[2::2], strict=True)]


def section(path: Path, title: str) -> Section:
    return next(one for one in sections(path) if one.title == title)


def quoted_words(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell)


def only(cell: str) -> str:
    (found,) = quoted_words(cell)
    return found


def model_in(annotation: object) -> tuple[type[BaseModel], bool] | None:
    """The settings section that a field contains, and whether it contains many by name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    origin = get_origin(annotation)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        inner = get_args(annotation)[1]
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            return inner, True
    return None


def leaves(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    for name, field in model.model_fields.items():
        inner = model_in(field.annotation)
        if inner is None:
            yield (*path, name), field
        else:
            yield from leaves(inner[0], (*path, name, *(["NAME"] if inner[1] else [])))


def default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, bool | tuple | list | Mapping):
        return json.dumps(dict(value) if isinstance(value, Mapping) else value)
    return str(value)


def bounds_of(field: FieldInfo) -> str:
    least = next((one.ge for one in field.metadata if hasattr(one, "ge")), None)
    most = next((one.le for one in field.metadata if hasattr(one, "le")), None)
    match least, most:
        case None, None:
            return ""
        case _, None:
            return f" ({least} or more)"
        case _:
            return f" ({least}-{most})"


@cache
def commands() -> dict[str, Any]:
    """Every command by its words."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield " ".join(words), command
            return
        if hasattr(command, "default_command"):
            yield " ".join(words), command.commands[command.default_command]
        for name, inner in command.commands.items():
            if name == getattr(command, "default_command", None):
                continue
            yield from walk(inner, (*words, name))

    return dict(walk(typer.main.get_command(app), ()))


def arguments_of(command: Any) -> list[str]:
    return [one.name.upper() for one in command.params if one.param_type_name == "argument"]


def options_of(command: Any) -> dict[str, Any]:
    return {name: one for one in command.params if one.param_type_name == "option" for name in one.opts}


def lines_to_type() -> Iterator[tuple[str, list[str]]]:
    """Our command lines in code blocks and in running text."""
    for path in PAGES_WITH_BLOCKS:
        text = path.read_text(encoding="utf-8")
        blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL)
        spans = re.findall(r"`([^`\n]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        whole = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
        for line in [*(one.strip() for one in whole), *spans]:
            words = shlex.split(line, comments=True) if line.count("'") % 2 == 0 else line.split()
            while words and "=" in words[0]:
                words = words[1:]
            if words and words[0] in {"token-vault", "make"}:
                yield f"{path.name}: {line}", words


def plain(path: str) -> str:
    """A route without converters and without a trailing slash."""
    return re.sub(r":path}", "}", path).rstrip("/") or "/"


def subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


@cache
def modules() -> tuple[str, ...]:
    """Every module of the product, imported."""
    names: list[str] = []
    for package in (vault, providers, server):
        for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not found.name.endswith("__main__") and ".simulator" not in found.name:
                importlib.import_module(found.name)
                names.append(found.name)
    return tuple(names)


def calls(module: str, *names: str) -> Iterator[ast.Call]:
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names:
            yield node


def written_codes(title: str) -> set[str]:
    return {code for row in section(DOCS / "reference/errors.md", title).rows for code in quoted_words(row["Code"])}


def imported_in(path: Path) -> set[str]:
    """Top-level names that a module imports, and the libraries behind a library's adapter modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
            if node.module.endswith("_impl"):  # uvicorn's protocols
                found.add(node.module.rpartition(".")[2].removesuffix("_impl"))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "load":  # of vault.keys.sources.service
            found |= {str(one.value).split(".")[0] for one in node.args if isinstance(one, ast.Constant)}
    return found


def import_name(package: str) -> str:
    if package.startswith("opentelemetry-"):
        return "opentelemetry"
    if package.startswith(("google-cloud-", "azure-")):
        return package.partition("-")[0]
    return {"argon2-cffi": "argon2", "python-pkcs11": "pkcs11", "pyyaml": "yaml"}.get(
        package, package.replace("-", "_")
    )


def package_rows() -> dict[str, list[str]]:
    rows = section(ROOT / "README.md", "Packages, and where each is used").rows
    return {only(row["Package"]): quoted_words(row["Where"]) for row in rows}


def package_names(lines: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0] for line in lines}


def anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
