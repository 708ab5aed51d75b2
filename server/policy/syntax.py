"""Read and change the syntax tree of a rule: what it names, who it can apply to, and the rule without a given fact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Final, TypeVar

from cedarpy import pst

from server.policy.schema import ARGUMENTS, ATTRIBUTES
from vault import groups, users

_COMPARED: Final = {"User": users.name_key, "Group": groups.name_key}
Path = tuple[str, ...]
Node = TypeVar("Node")


@dataclass(frozen=True, slots=True)
class Names:
    """What a rule refers to. `attributes`: of the context. `arguments`: their names; None for all."""

    attributes: frozenset[str]
    arguments: frozenset[str] | None
    has_person: bool
    has_account: bool
    has_action: bool


def named_in(rule: pst.Template) -> Names:
    """Everything that the rule's answer can depend on, except its action."""
    paths = {path for clause in rule.clauses for path in _paths(clause.expr)}
    attributes = frozenset(path[1] for path in paths if path[0] == "context" and len(path) > 1)
    if ("context",) in paths:
        attributes = ATTRIBUTES
    inner = [path for path in paths if path[:2] == ("context", ARGUMENTS)]
    all_arguments = ("context",) in paths or any(len(path) == 2 for path in inner)
    is_about_person = not isinstance(rule.principal, pst.ScopeAny | pst.ScopeIs)
    is_about_account = not isinstance(rule.resource, pst.ScopeAny | pst.ScopeIs)
    return Names(
        attributes,
        None if all_arguments else frozenset(path[2] for path in inner),
        has_person=is_about_person or any(path[0] == "principal" for path in paths),
        has_account=is_about_account or any(path[0] == "resource" for path in paths),
        has_action=any(path[0] == "action" for path in paths),
    )


def aims_at(rule: pst.Template) -> frozenset[str] | None:
    """The actions and action groups that it applies to; None for all."""
    match rule.action:
        case pst.ActionEq(entity):
            return frozenset({entity.id})
        case pst.ActionIn(entities):
            return frozenset(one.id for one in entities)
        case pst.ScopeAny():
            return None


@dataclass(frozen=True, slots=True)
class ArgumentEquals:
    """A text that an argument must have. `is_guarded`: the rule first checks that the argument exists."""

    name: str
    text: str
    is_guarded: bool


@dataclass(frozen=True, slots=True)
class RuleHead:
    """The text comparisons that a rule begins with: if one is false, the rule doesn't apply."""

    provider: str | None = None
    agent: str | None = None
    arguments: tuple[ArgumentEquals, ...] = field(default=(), repr=False)  # in evaluation order, after the others


def head_of(rule: pst.Template) -> RuleHead:
    """The conditions that the rule begins with.

    Only conditions before anything that can fail count: a later failure would forbid the call. A comparison of an
    argument can fail, so only further comparisons of arguments count after it.
    """
    equals: dict[Path, str] = {}
    arguments: list[ArgumentEquals] = []
    guarded: set[str] = set()
    for part in _first_conditions(rule):
        match part:
            case pst.HasAttr(base, (name,)) if _path_of(base) == ("context", ARGUMENTS):
                guarded.add(name)
                continue
            case pst.BinaryOp("eq", left, pst.StringLit(value)) | pst.BinaryOp("eq", pst.StringLit(value), left):
                path = _path_of(left)
            case _:
                break
        if path is not None and len(path) == 3 and path[:2] == ("context", ARGUMENTS):
            arguments.append(ArgumentEquals(path[2], value, path[2] in guarded))
        elif path in {("resource", "provider"), ("context", "agent", "id")} and not arguments and not guarded:
            equals.setdefault(path, value)
        else:
            break
    return RuleHead(equals.get(("resource", "provider")), equals.get(("context", "agent", "id")), tuple(arguments))


def _first_conditions(rule: pst.Template) -> Iterator[pst.Expr]:
    """The conditions that must all be true, in evaluation order, up to the first `unless`."""
    for clause in rule.clauses:
        if not isinstance(clause, pst.When):
            break
        yield from _operands(clause.expr, "and")


def weaken(rule: pst.Template, unknown: frozenset[str]) -> pst.Template:
    """The rule without every condition on these attributes of the context: it forbids at least what it did."""
    if not unknown:
        return rule
    clauses: list[pst.Clause] = []
    for clause in rule.clauses:
        name = "and" if isinstance(clause, pst.When) else "or"
        kept = (part for part in _operands(clause.expr, name) if not _names(part, unknown))
        clauses += [replace(clause, expr=part) for part in kept]
    return replace(rule, clauses=tuple(clauses))


def normalize(rule: pst.Template) -> pst.Template:
    """People and groups by the form in which the vault compares their names."""
    return _with_names(rule)


def _with_names(node: Node) -> Node:
    if isinstance(node, pst.EntityUid):
        compare = _COMPARED.get(node.type.basename)
        return node if compare is None else replace(node, id=compare(node.id))
    if isinstance(node, tuple):
        return type(node)(_with_names(one) for one in node)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType, reportReturnType] -- a tuple of nodes
    if isinstance(node, pst.Record):
        return replace(node, fields=pst.FrozenMap({name: _with_names(one) for name, one in node.fields.items()}))
    if is_dataclass(node) and not isinstance(node, type):
        return replace(node, **{one.name: _with_names(getattr(node, one.name)) for one in fields(node)})  # pyright: ignore[reportReturnType] -- of the same class
    return node


def _operands(node: pst.Expr, name: str) -> Iterator[pst.Expr]:
    """The parts of a chain of `&&` or `||`, in the order in which they are evaluated."""
    if isinstance(node, pst.BinaryOp) and node.op == name:
        yield from _operands(node.left, name)
        yield from _operands(node.right, name)
    else:
        yield node


def _names(node: pst.Expr, attributes: frozenset[str]) -> bool:
    return any(path == ("context",) or (path[0] == "context" and path[1] in attributes) for path in _paths(node))


def _path_of(node: object) -> Path | None:
    """`context.agent.id` as its names; None for anything else."""
    if isinstance(node, pst.Var):
        return (node.name,)
    if isinstance(node, pst.GetAttr) and (base := _path_of(node.base)) is not None:
        return (*base, node.attr)
    return None


def _paths(node: object) -> Iterator[Path]:
    """Every path that an expression reads or tests, as long as possible."""
    if isinstance(node, pst.HasAttr) and (base := _path_of(node.base)) is not None:
        yield (*base, *node.attrs)
        return
    if (path := _path_of(node)) is not None:
        yield path
        return
    if isinstance(node, tuple):
        for one in node:  # pyright: ignore[reportUnknownVariableType] -- nodes
            yield from _paths(one)  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(node, Mapping):
        for one in node.values():  # pyright: ignore[reportUnknownVariableType] -- nodes
            yield from _paths(one)  # pyright: ignore[reportUnknownArgumentType]
    elif is_dataclass(node) and not isinstance(node, type):
        for one in fields(node):
            yield from _paths(getattr(node, one.name))
