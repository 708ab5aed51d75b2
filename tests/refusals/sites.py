"""Where the code refuses, and which mutants each refusal has."""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Literal

Kind = Literal["gone", "always", "reason"]
ANSWERS = ("error", "refused", "problem")  # arguments by which a page answers that it refused
_EXITS = (ast.Return, ast.Break, ast.Continue)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


@dataclass(frozen=True)
class Site:
    """One statement that refuses. `key` is its text, so that it stays the same when lines move."""

    file: str
    function: str
    key: str
    line: int
    lines: Sequence[int]
    guard: str  # what decides whether it refuses; empty if nothing in its function does
    guard_lines: Sequence[int]
    digest: str  # of the text of its function


@dataclass(frozen=True)
class Change:
    """One mutant of a site: the whole file with the change."""

    site: Site
    kind: Kind
    reason: str  # for `reason`: the one that no longer counts
    new: str

    @property
    def key(self) -> str:
        """Its name, which stays the same while lines move, until its function changes."""
        site = self.site
        without = f" without {self.reason}" if self.reason else ""
        return f"{site.file}: {site.function}: {site.key}: {self.kind}{without} #{site.digest}"


def sites_of(file: str, text: str) -> list[tuple[Site, list[Change]]]:
    """All refusals of one file in the order of their lines, with their mutants."""
    found: list[tuple[Site, list[Change]]] = []
    seen: Counter[tuple[str, str]] = Counter()
    lines = text.splitlines()
    for function, path in _statements(ast.parse(text), [], ""):
        statement = path[-1]
        if not isinstance(statement, ast.stmt) or not _refuses(statement):
            continue
        said = ast.unparse(statement)
        seen[function, said] += 1
        number = seen[function, said]
        guard = _guard(path)
        site = Site(
            file,
            function,
            said if number == 1 else f"{said} (number {number})",
            statement.lineno,
            _lines(statement),
            "" if guard is None else guard[0],
            () if guard is None else (guard[1].lineno,),
            _digest(lines, path),
        )
        found.append((site, list(_changes(site, text, statement, guard))))
    return found


def _digest(lines: Sequence[str], path: Sequence[ast.AST]) -> str:
    around = next(one for one in reversed(path) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))
    own = "\n".join(lines[around.lineno - 1 : around.end_lineno])
    return hashlib.sha256(own.encode()).hexdigest()[:12]


def _statements(node: ast.AST, path: list[ast.AST], function: str) -> Iterator[tuple[str, list[ast.AST]]]:
    for child in ast.iter_child_nodes(node):
        inner = function
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{function}.{child.name}".lstrip(".")
        if isinstance(child, ast.Raise | ast.Return) and function:
            yield function, [*path, node, child]
        yield from _statements(child, [*path, node], inner)


def _refuses(statement: ast.stmt) -> bool:
    match statement:
        case ast.Raise():
            return True
        case ast.Return(value=ast.expr() as value):
            calls = [one for one in ast.walk(value) if isinstance(one, ast.Call) and not _makes_a_record(one)]
            return any(named.arg in ANSWERS and not _is_nothing(named.value) for one in calls for named in one.keywords)
        case _:
            return False


def _makes_a_record(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id[0].isupper()


def _is_nothing(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and not value.value


Guard = tuple[str, ast.stmt, ast.expr | None, bool]  # its kind, its statement, its condition, and whether that refuses


def _guard(path: Sequence[ast.AST]) -> Guard | None:
    """What decides: a condition, an exception, a case, a loop, or an earlier statement that can leave the block."""
    for at in range(len(path) - 1, 0, -1):
        inner, outer = path[at], path[at - 1]
        if isinstance(inner, ast.stmt):
            before = _before(outer, inner)
            if any(_may_leave(one) for one in before):
                return "earlier exit", before[0], None, True
        match outer:
            case ast.If(test=test) if isinstance(inner, ast.stmt):
                return "if", outer, test, inner in outer.body
            case ast.match_case():
                statement = path[at - 2]
                assert isinstance(statement, ast.stmt)
                return "case", statement, None, True
            case ast.ExceptHandler():
                attempt = path[at - 2]
                assert isinstance(attempt, ast.Try)
                return "except", attempt.body[0], None, True
            case ast.For() | ast.AsyncFor() | ast.While():
                return "loop", outer, None, True
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return None
            case _:
                pass
    return None


def _before(outer: ast.AST, inner: ast.stmt) -> list[ast.stmt]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(outer, name, None)
        if isinstance(block, list) and inner in block:
            before: list[ast.stmt] = block[: block.index(inner)]
            return before[1:] if before and _is_docstring(before[0]) else before
    return []


def _is_docstring(statement: ast.stmt) -> bool:
    """Whether it is a docstring, which no test runs."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _may_leave(statement: ast.stmt) -> bool:
    """Whether it contains a return, break, or continue; those in its own inner function or loop don't count."""
    todo: list[tuple[ast.AST, bool]] = [(statement, False)]
    while todo:
        node, is_in_loop = todo.pop()
        if isinstance(node, ast.Return) or (isinstance(node, ast.Break | ast.Continue) and not is_in_loop):
            return True
        if not isinstance(node, _SCOPES):
            looping = is_in_loop or isinstance(node, ast.For | ast.AsyncFor | ast.While)
            todo += [(child, looping) for child in ast.iter_child_nodes(node)]
    return False


def _changes(site: Site, text: str, statement: ast.stmt, guard: Guard | None) -> Iterator[Change]:
    match statement:
        case ast.Return(value=ast.IfExp(test=test, body=body)):
            refuses = _refuses(ast.Return(value=body))
            yield Change(site, "gone", "", _wrap(text, test, "and False" if refuses else "or True"))
            yield Change(site, "always", "", _wrap(text, test, "or True" if refuses else "and False"))
            return
        case _:
            yield Change(site, "gone", "", _replace(text, statement, "pass"))
    if guard is None:
        return
    _, place, condition, refuses = guard
    if condition is None:
        refusal = ast.unparse(_alone(statement))
        yield Change(site, "always", "", _insert_before(text, place, refusal))
        return
    yield Change(site, "always", "", _wrap(text, condition, "or True" if refuses else "and False"))
    for operand, is_any in _reasons(condition, refuses):
        changed = _wrap(text, operand, "and False" if is_any else "or True")
        yield Change(site, "reason", ast.unparse(operand), changed)


def _alone(statement: ast.stmt) -> ast.stmt:
    """The refusal without its cause; if it names something that doesn't exist yet, that fails in the same way."""
    match statement:
        case ast.Raise(exc=None):
            return ast.parse('raise RuntimeError("refused")').body[0]
        case ast.Raise(exc=refusal):
            return ast.Raise(exc=refusal, cause=None)
        case _:
            return statement


def _reasons(condition: ast.expr, refuses: bool) -> list[tuple[ast.expr, bool]]:
    """Reasons each of which is sufficient, and whether it refuses when it is true."""
    match condition:
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return _reasons(inner, not refuses)
        case ast.BoolOp(op=ast.Or(), values=values) if refuses:
            return [found for one in values for found in (_reasons(one, refuses) or [(one, True)])]
        case ast.BoolOp(op=ast.And(), values=values) if not refuses:
            return [found for one in values for found in (_reasons(one, refuses) or [(one, False)])]
        case _:
            return []


def _lines(statement: ast.stmt) -> list[int]:
    return list(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))


def _offsets(text: str, node: ast.expr | ast.stmt) -> tuple[int, int]:
    """Where the node begins and ends in the text; the tree counts bytes of UTF-8."""
    lines, starts = _lines_of(text)

    def offset(line: int, column: int) -> int:
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    end_line, end_column = node.end_lineno, node.end_col_offset
    assert end_line is not None and end_column is not None
    return offset(node.lineno, node.col_offset), offset(end_line, end_column)


@cache
def _lines_of(text: str) -> tuple[list[str], list[int]]:
    lines = text.splitlines(keepends=True)
    return lines, [0, *accumulate(map(len, lines))]


def _replace(text: str, node: ast.stmt, new: str) -> str:
    start, end = _offsets(text, node)
    return text[:start] + new + "\n" * text.count("\n", start, end) + text[end:]


def _wrap(text: str, node: ast.expr, more: str) -> str:
    start, end = _offsets(text, node)
    return f"{text[:start]}(({text[start:end]}) {more}){text[end:]}"


def _insert_before(text: str, before: ast.stmt, new: str) -> str:
    start, _ = _offsets(text, before)
    return f"{text[:start]}{new}\n{' ' * before.col_offset}{text[start:]}"
