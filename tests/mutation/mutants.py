"""Which mutants exist, which of them are drawn, and what each one changes."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

# The rest of cosmic-ray's operators makes mutants that no test could tell from the original (annotations are strings
# here), or that every test detects (`a % b` for `a + b`).
OPERATORS = tuple(
    f"core/{name}"
    for name in (
        "AddNot",
        "NumberReplacer",
        "ReplaceAndWithOr",
        "ReplaceOrWithAnd",
        "ReplaceTrueWithFalse",
        "ReplaceFalseWithTrue",
        "ReplaceBreakWithContinue",
        "ReplaceContinueWithBreak",
        "ZeroIterationForLoop",
        "ExceptionReplacer",
        "ReplaceUnaryOperator_Delete_Not",
        "ReplaceComparisonOperator_Eq_NotEq",
        "ReplaceComparisonOperator_NotEq_Eq",
        "ReplaceComparisonOperator_Lt_LtE",
        "ReplaceComparisonOperator_LtE_Lt",
        "ReplaceComparisonOperator_Gt_GtE",
        "ReplaceComparisonOperator_GtE_Gt",
        "ReplaceComparisonOperator_Lt_GtE",
        "ReplaceComparisonOperator_Gt_LtE",
        "ReplaceComparisonOperator_Is_IsNot",
        "ReplaceComparisonOperator_IsNot_Is",
        "ReplaceBinaryOperator_Add_Sub",
        "ReplaceBinaryOperator_Sub_Add",
        "ReplaceBinaryOperator_Mul_Div",
        "ReplaceBinaryOperator_BitAnd_BitOr",
    )
)
LEFT_OUT = (
    "texts (no operator changes one), annotations, TYPE_CHECKING blocks, decorators (dataclass flags, sizes of "
    "caches), arguments of log calls, zip(strict=), and the * that begins keyword-only parameters"
)

Place = tuple[int, int]


@dataclass(frozen=True)
class Mutant:
    """One change in one place: the operator's `occurrence`-th place in the file, counted from 0."""

    file: str
    line: int
    operator: str
    occurrence: int


def mutants_of(root: Path, file: str) -> Iterator[Mutant]:
    """All mutants of one file except LEFT_OUT."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator

    text = (root / file).read_text(encoding="utf-8")
    nodes = list(ast_nodes(get_ast(text)))
    inert = inert_ranges(text)
    for name in OPERATORS:
        operator, occurrence = get_operator(name)(), 0
        for node in nodes:
            for start, _ in operator.mutation_positions(node):
                signature = "BinaryOperator" in name and getattr(node.parent, "type", "") in {"parameters", "param"}
                if not signature and not any(first <= start < last for first, last in inert):
                    yield Mutant(file, start[0], name, occurrence)
                occurrence += 1


def mutate(text: str, mutant: Mutant) -> str | None:
    """The file with the change; None if the place doesn't exist or the operator can't change it (`except a.B`).

    `while not a := b` isn't a mutant either: no test is needed to see that it isn't valid Python.
    """
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    try:
        new = mutate_code(text, get_operator(mutant.operator)(), mutant.occurrence)
        ast.parse(new or "")
    except (AttributeError, SyntaxError):
        return None
    return new


def changed_lines(old: str, new: str) -> tuple[str, str]:
    """The changed lines before and after, without indentation: the stable name of a mutant."""
    before, after = old.splitlines(), new.splitlines()
    if len(before) != len(after):  # an operator that stands on its own line can join it with the one before
        steps = [one for one in SequenceMatcher(None, before, after, autojunk=False).get_opcodes() if one[0] != "equal"]
        first, last = steps[0], steps[-1]
        before, after = before[first[1] : last[2]], after[first[3] : last[4]]
        return "\n".join(map(str.strip, before)), "\n".join(map(str.strip, after))
    pairs = [(a.strip(), b.strip()) for a, b in zip(before, after, strict=True) if a != b]
    return "\n".join(a for a, _ in pairs), "\n".join(b for _, b in pairs)


def inert_ranges(text: str) -> list[tuple[Place, Place]]:
    """The ranges of LEFT_OUT, in which no change matters."""
    return [_range(one) for node in ast.walk(ast.parse(text)) for one in _inert_parts(node)]


def _inert_parts(node: ast.AST) -> list[ast.expr | ast.stmt]:
    parts: list[ast.expr | ast.stmt | None] = []
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            parts = [node]
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            parts = [*node.decorator_list, node.returns, *(one.annotation for one in arguments)]
        case ast.ClassDef():
            parts = [*node.decorator_list]
        case ast.AnnAssign():
            parts = [node.annotation]
        case ast.Call(func=ast.Attribute(value=ast.Name(id="log"))):
            parts = [node]
        case ast.Call(func=ast.Name(id="zip")):
            parts = [one.value for one in node.keywords if one.arg == "strict"]
        case _:
            pass
    return [one for one in parts if one is not None]


def _range(node: ast.expr | ast.stmt) -> tuple[Place, Place]:
    return (node.lineno, node.col_offset), (node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)


def draw_sample(all_of_them: Sequence[Mutant], *, count: int, seed: int) -> list[Mutant]:
    """Draw a sample in which each mutant has the same chance."""
    return random.Random(seed).sample(all_of_them, min(count, len(all_of_them)))
