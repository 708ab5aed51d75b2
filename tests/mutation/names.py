"""What a mutant defines whose code runs at import: tests that use the name are the ones to run."""

from __future__ import annotations

import ast


def name_at_import(old: str, new: str) -> str:
    """The constant, field, or function (for the default of a parameter); empty for code inside of a function."""
    return _changed(ast.parse(old).body, ast.parse(new).body)


def _changed(old: list[ast.stmt], new: list[ast.stmt]) -> str:
    for before, after in zip(old, new, strict=True):
        if ast.dump(before) == ast.dump(after):
            continue
        match before, after:
            case ((ast.FunctionDef() | ast.AsyncFunctionDef()), (ast.FunctionDef() | ast.AsyncFunctionDef())):
                return "" if ast.dump(before.args) == ast.dump(after.args) else before.name
            case ast.ClassDef(), ast.ClassDef():
                return _changed(before.body, after.body) or ""
            case ((ast.Assign(targets=[ast.Name(id=name), *_]) | ast.AnnAssign(target=ast.Name(id=name))), _):
                return name
            case _:
                return "?"
    return ""
