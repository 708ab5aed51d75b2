"""References to secrets in settings: addresses that begin with the name of their source. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

_FORMS: Final = {
    "op": (re.compile(r"[^/#?]+/[^/#?]+(/[^/#?]+)?/[^/#?]+"), "op://VAULT/ITEM/FIELD"),
    "bws": (re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"), "bws://ID, the secret's UUID"),
    "bao": (re.compile(r"[^/#?]+(/[^/#?]+)+#[^#]+"), "bao://MOUNT/PATH#FIELD"),
    "env": (re.compile(r"[A-Za-z_][A-Za-z0-9_]*"), "env://VARIABLE"),
    "file": (re.compile(r"/.+"), "file:///PATH"),
}
_REFERENCE: Final = re.compile(rf"({'|'.join(_FORMS)})://(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a secret is: at a `source`, by its `parts` there, and in the `field` of what has several."""

    text: str
    source: str
    parts: tuple[str, ...]
    field: str = ""


def is_reference(text: str) -> bool:
    """Whether this says where a secret is, well or badly, and isn't one."""
    return _REFERENCE.fullmatch(text) is not None


def reference_problem(text: str) -> str | None:
    """What is wrong with a reference, and its form; None if nothing is."""
    matched = _REFERENCE.fullmatch(text)
    if matched is None:
        return "not a reference to a secret"
    form, example = _FORMS[matched[1]]
    return None if form.fullmatch(matched[2]) is not None and text.isprintable() else f"write it as {example}"


def parse_reference(text: str) -> Reference:
    """The reference. Raises ValueError."""
    matched = _REFERENCE.fullmatch(text)
    if matched is None or reference_problem(text) is not None:
        raise ValueError(reference_problem(text))
    source, rest = matched[1], matched[2]
    match source:
        case "file" | "env":
            return Reference(text, source, (rest,))
        case "bao":
            path, _, field = rest.rpartition("#")
            return Reference(text, source, tuple(path.split("/")), field)
        case _:
            parts = tuple(unquote(part) for part in rest.split("/"))
            return Reference(text, source, parts[:-1], parts[-1])


def env_variable(text: str) -> str | None:
    """The variable of this process that a reference names; None for any other text."""
    matched = _REFERENCE.fullmatch(text)
    return matched[2] if matched is not None and matched[1] == "env" else None
