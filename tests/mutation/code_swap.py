"""Give functions, constants, and defaults that are already imported the code or value that a mutant has."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from inspect import CO_OPTIMIZED
from types import CodeType, FunctionType, ModuleType

Name = tuple[str, int]  # qualified name, and how often it occurred before in the file


def functions_of(folder: str) -> dict[str, list[FunctionType]]:
    """All existing functions, by file of the folder. Call it only once: it visits every object in memory."""
    found: dict[str, list[FunctionType]] = {}
    for one in gc.get_objects():
        if isinstance(one, FunctionType) and one.__code__.co_filename.startswith(folder):
            found.setdefault(one.__code__.co_filename, []).append(one)
    return found


def swap_functions(path: str, old: str, new: str, functions: Iterable[FunctionType]) -> bool:
    """Change the file's functions that differ; returns False if the change is in code that runs at import."""
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


def swap_values(old: str, new: str, module: ModuleType, importers: Iterable[ModuleType]) -> bool:
    """Change the constants, class attributes, and defaults that differ after import; False if that isn't everything."""
    changes: list[Callable[[], object]] = []
    try:
        before, after = _namespace(old, module), _namespace(new, module)
        for owner, name, value in _changes(before, after, module):
            changes.append(partial(setattr, owner, name, value))
            if owner is module:
                was = vars(module)[name]
                changes += [partial(setattr, one, name, value) for one in importers if vars(one).get(name) is was]
    except Exception:  # noqa: BLE001  whatever the mutant's code raises: a process of its own shows it
        return False
    for change in changes:
        change()
    return bool(changes)


def _namespace(text: str, module: ModuleType) -> dict[str, object]:
    found: dict[str, object] = {"__name__": module.__name__, "__file__": module.__file__}
    exec(compile(text, str(module.__file__), "exec", dont_inherit=True), found)
    return found


def _changes(
    before: Mapping[str, object], after: Mapping[str, object], live: ModuleType | type
) -> Iterator[tuple[object, str, object]]:
    if before.keys() != after.keys():
        raise ValueError("other names")
    for name, was in before.items():
        now, there = after[name], vars(live).get(name)
        if isinstance(was, staticmethod | classmethod):
            was, now, there = (getattr(one, "__func__", None) for one in (was, now, there))
        if isinstance(was, FunctionType):
            for part in ("__defaults__", "__kwdefaults__"):
                value = getattr(now, part)
                if _text_of_value(getattr(was, part)) != _text_of_value(value):
                    yield there, part, _plain(value)
        elif isinstance(was, type) and was.__module__ == getattr(live, "__module__", live.__name__):
            if isinstance(now, type) and isinstance(there, type):
                found = list(_changes(vars(was), vars(now), there))
                if found and "__pydantic_validator__" in vars(was):
                    raise TypeError("a model, which made its checks at import")
                yield from found
        elif not name.startswith("__") and _text_of_value(was) != _text_of_value(now):
            yield live, name, _plain(now)


def _text_of_value(value: object) -> str:
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


def _plain(value: object) -> object:
    """The value, unless it contains an object made by the new text, whose classes other modules don't know."""
    match value:
        case None | bool() | int() | float() | str() | bytes() | re.Pattern():
            pass
        case tuple() | list() | set() | frozenset():
            for one in value:  # pyright: ignore[reportUnknownVariableType]
                _plain(one)  # pyright: ignore[reportUnknownArgumentType]
        case dict():
            for one in [*value, *value.values()]:  # pyright: ignore[reportUnknownVariableType]
                _plain(one)  # pyright: ignore[reportUnknownArgumentType]
        case _:
            raise TypeError(type(value))
    return value


def _functions(module: CodeType) -> Iterator[tuple[Name, CodeType]]:
    """Functions and methods of the file, without the functions inside them, which are part of their code."""
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
