"""Give functions that are imported already the code of a mutant."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from inspect import CO_OPTIMIZED
from types import CodeType, FunctionType

Name = tuple[str, int]  # qualified name, and how often it came before in the file


def swapped(path: str, old: str, new: str) -> bool:
    """Change all functions of the file that differ; False when the change is in code that runs at import."""
    before, after = compile(old, path, "exec"), compile(new, path, "exec")
    names = {(code.co_qualname, code.co_firstlineno): name for name, code in _functions(before)}
    changed = {name: code for name, code in _functions(after) if code != dict(_functions(before)).get(name)}
    if not changed or _at_import(before) != _at_import(after):
        return False
    done = 0
    gc.unfreeze()  # objects that are frozen aren't listed
    for one in gc.get_objects():
        if isinstance(one, FunctionType) and one.__code__.co_filename == path:
            code = one.__code__
            replacement = changed.get(names.get((code.co_qualname, code.co_firstlineno), ("", 0)))
            if replacement is not None:
                one.__code__ = replacement
                done += 1
    return done > 0


def _functions(module: CodeType) -> Iterator[tuple[Name, CodeType]]:
    """Functions and methods of the file, not what is inside of them: that is part of their code."""
    seen: dict[str, int] = {}
    for code in _inside(module):
        if code.co_flags & CO_OPTIMIZED:
            seen[code.co_qualname] = seen.get(code.co_qualname, -1) + 1
            yield (code.co_qualname, seen[code.co_qualname]), code


def _inside(code: CodeType) -> Iterator[CodeType]:
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield one
            if not one.co_flags & CO_OPTIMIZED:  # the body of a class
                yield from _inside(one)


def _at_import(code: CodeType) -> tuple[object, ...]:
    """What runs at import: the bytecode of the module and of its classes, with its constants."""
    mine = [one for one in code.co_consts if not isinstance(one, CodeType)]
    classes = [one for one in code.co_consts if isinstance(one, CodeType) and not one.co_flags & CO_OPTIMIZED]
    return code.co_code, [(type(one), one) for one in mine], code.co_names, [_at_import(one) for one in classes]


def lines_of_functions(text: str, path: str) -> Mapping[int, str]:
    """By line, the function that contains it."""
    found: dict[int, str] = {}
    for _, code in _functions(compile(text, path, "exec")):
        for line in _lines(code):
            found[line] = code.co_qualname
    return found


def _lines(code: CodeType) -> Iterator[int]:
    yield from (line for _, _, line in code.co_lines() if line is not None)
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _lines(one)
