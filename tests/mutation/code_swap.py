"""Give functions that are imported already the code of a mutant."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from inspect import CO_OPTIMIZED
from types import CodeType, FunctionType

Name = tuple[str, int]  # qualified name, and how often it came before in the file


def functions_of(folder: str) -> dict[str, list[FunctionType]]:
    """By file of the folder, all functions that exist: to be called once, because it touches each object there is."""
    found: dict[str, list[FunctionType]] = {}
    for one in gc.get_objects():
        if isinstance(one, FunctionType) and one.__code__.co_filename.startswith(folder):
            found.setdefault(one.__code__.co_filename, []).append(one)
    return found


def swap_functions(path: str, old: str, new: str, functions: Iterable[FunctionType]) -> bool:
    """Change those functions of the file that differ; False when the change is in code that runs at import."""
    before, after = compile(old, path, "exec"), compile(new, path, "exec")
    originals = dict(_functions(before))
    names = {(code.co_qualname, code.co_firstlineno): name for name, code in originals.items()}
    changed = {name: code for name, code in _functions(after) if code != originals.get(name)}
    if not changed or _at_import(before) != _at_import(after):
        return False
    done = 0
    for one in functions:
        place = (one.__code__.co_qualname, one.__code__.co_firstlineno)
        replacement = changed.get(names.get(place, ("", 0)))
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
