"""References to secrets, in settings or entered: addresses that begin with the name of their source. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from providers.definitions.credential import Credential

_FORMS: Final = {
    "op": (re.compile(r"[^/#?]+/[^/#?]+(/[^/#?]+)?/[^/#?]+"), "op://VAULT/ITEM/FIELD"),
    "bws": (re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"), "bws://ID, the secret's UUID"),
    "bao": (re.compile(r"[^/#?]+(/[^/#?]+)+#[^#]+"), "bao://MOUNT/PATH#FIELD"),
    "env": (re.compile(r"[A-Za-z_][A-Za-z0-9_]*"), "env://VARIABLE"),
    "file": (re.compile(r"/.+"), "file:///PATH"),
}
SERVICES: Final = frozenset({"op", "bws", "bao"})  # sources that aren't on this machine
ANY_PERSON: Final = "{user}"
_DOTS: Final = frozenset({".", ".."})
_REFERENCE: Final = re.compile(rf"({'|'.join(_FORMS)})://(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a secret is: at a `source`, by its `parts` there, and in a `field` if the entry has several."""

    text: str
    source: str
    parts: tuple[str, ...]
    field: str = ""


def is_reference(text: str) -> bool:
    """Whether this is meant as a reference, valid or not, instead of a secret."""
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


def prefix_problem(prefix: str) -> str | None:
    """What is wrong with a prefix of references that people may enter; None if nothing is."""
    source, _, rest = prefix.partition("://")
    is_folder = prefix.endswith("/") and (source == "bws" or rest.strip("/") != "")
    if source not in SERVICES or not (is_folder or reference_problem(prefix) is None):
        return "begin with op://, bws://, or bao://, and end with / or name one secret"
    return None


def is_below(reference: str, prefix: str, *, user: str | None = None) -> bool:
    """Whether a reference has this prefix, in which `{user}` stands for a person's name. `user` None: any person's, for
    a reference that was checked before.
    """
    if reference_problem(reference) is not None:
        return False
    found = parse_reference(reference)
    if any(part in _DOTS or "/" in part for part in (*found.parts, found.field)):
        return False  # the source may read these as another place
    before, placed, after = prefix.partition(ANY_PERSON)
    if not placed:
        return reference.startswith(prefix) if prefix.endswith("/") else reference == prefix
    name = "[^/#?]+" if user is None else re.escape(user)
    rest = ".*" if prefix.endswith("/") else ""  # otherwise it names one secret
    return re.fullmatch(f"{re.escape(before)}{name}{re.escape(after)}{rest}", reference) is not None


def references_in(credential: Credential, values: Mapping[str, str]) -> dict[str, str]:
    """The secret fields that contain a reference, by name."""
    return {name: text for name in credential.secrets if is_reference(text := values.get(name, "").strip())}
