"""Which mutants there are, and which of them are drawn."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# The rest of cosmic-ray's operators makes mutants that no test could tell from the original (annotations are strings
# here), or that every test tells (`a % b` for `a + b`).
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


@dataclass(frozen=True)
class Mutant:
    """One change of one place: the `occurrence`-th of the operator in the file, counted from 0."""

    file: str
    line: int
    operator: str
    occurrence: int


def mutants_of(root: Path, file: str) -> Iterator[Mutant]:
    """All mutants of one file."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator

    text = (root / file).read_text(encoding="utf-8")
    nodes = list(ast_nodes(get_ast(text)))
    unreachable = _inert_lines(text)
    for name in OPERATORS:
        operator, occurrence = get_operator(name)(), 0
        for node in nodes:
            for (line, _), _ in operator.mutation_positions(node):
                if line not in unreachable:
                    yield Mutant(file, line, name, occurrence)
                occurrence += 1


def mutated(text: str, mutant: Mutant) -> str | None:
    """The file with the change; None when there is no such place."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    return mutate_code(text, get_operator(mutant.operator)(), mutant.occurrence)


def _inert_lines(text: str) -> frozenset[int]:
    """Lines that run at import only to name a type."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return frozenset(lines)


def drawn(all_of_them: Sequence[Mutant], *, count: int, seed: int) -> list[Mutant]:
    """A sample in which each mutant has the same chance."""
    return random.Random(seed).sample(all_of_them, min(count, len(all_of_them)))
