"""Where a mutant is: in which statement, and which name is defined there by code that runs at import."""

from __future__ import annotations

import ast

UNNAMED = "?"


def name_at_import(old: str, new: str) -> str:
    """The constant, field, or function (for the default of a parameter); empty for code inside a function."""
    return _changed_name(ast.parse(old).body, ast.parse(new).body)


def _changed_name(old: list[ast.stmt], new: list[ast.stmt]) -> str:
    for before, after in zip(old, new, strict=True):
        if ast.dump(before) == ast.dump(after):
            continue
        match before, after:
            case ((ast.FunctionDef() | ast.AsyncFunctionDef()), (ast.FunctionDef() | ast.AsyncFunctionDef())):
                return "" if ast.dump(before.args) == ast.dump(after.args) else before.name
            case ast.ClassDef(), ast.ClassDef():
                return _changed_name(before.body, after.body) or ""
            case ((ast.Assign(targets=[ast.Name(id=name), *_]) | ast.AnnAssign(target=ast.Name(id=name))), _):
                return name
            case _:
                return UNNAMED
    return ""


def lines_of_statement(text: str, line: int) -> list[int]:
    """The lines of the statement that contains the line; for a statement with a body, only its head."""
    smallest = range(line, line + 1)
    size = len(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if isinstance(body, list) and body else (node.end_lineno or node.lineno)
            if node.lineno <= line <= last and last - node.lineno < size:
                smallest, size = range(node.lineno, last + 1), last - node.lineno
    return list(smallest)


def lines_of_function(text: str, line: int) -> list[int]:
    """The lines of the innermost function that contains the line."""
    functions = [one for one in ast.walk(ast.parse(text)) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    around = [one for one in functions if one.lineno <= line <= (one.end_lineno or one.lineno)]
    innermost = max(around, key=lambda one: one.lineno, default=None)
    return [] if innermost is None else list(range(innermost.lineno, (innermost.end_lineno or innermost.lineno) + 1))


def dependent_names(text: str, name: str) -> set[str]:
    """The name, and the names of the file's constants that are computed from it, directly or indirectly."""
    found = {name}
    for node in ast.parse(text).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=made)], value=ast.expr(lineno=_) as value):
                pass
            case ast.AnnAssign(target=ast.Name(id=made), value=ast.expr(lineno=_) as value):
                pass
            case _:
                continue
        if any(isinstance(one, ast.Name) and one.id in found for one in ast.walk(value)):
            found.add(made)
    return found


def classes_with(text: str, line: int) -> list[str]:
    """The classes that contain the line, and those of the file that inherit from them."""
    found = classes_around(text, line)
    for one in ast.parse(text).body:
        if isinstance(one, ast.ClassDef) and any(isinstance(base, ast.Name) and base.id in found for base in one.bases):
            found.append(one.name)
    return found


def classes_around(text: str, line: int) -> list[str]:
    """The classes that contain the line."""
    classes = [one for one in ast.walk(ast.parse(text)) if isinstance(one, ast.ClassDef)]
    return [one.name for one in classes if one.lineno <= line <= (one.end_lineno or one.lineno)]


def is_used_at_import(text: str, name: str) -> bool:
    """Whether code that runs at import reads the name, so that a different value changes what that code creates."""
    todo: list[ast.AST] = [ast.parse(text)]
    while todo:
        node = todo.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                todo += [*node.decorator_list, *node.args.defaults, *(one for one in node.args.kw_defaults if one)]
            case ast.Lambda():
                pass
            case ast.AnnAssign(value=value):
                todo += [value] if value else []
            case ast.Name(id=found, ctx=ast.Load()) | ast.Attribute(attr=found) if found == name:
                return True
            case _:
                todo += ast.iter_child_nodes(node)
    return False
