"""A finding of the doctor: what was checked, its state, and what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from server.provider_settings import SecretUnreadable

_HOST: Final = re.compile(r"hosts\.(\w+): ")
Part = Literal["", "client", "redirect", "scopes"]
_SETTING: Final = re.compile(r"\w+(\.[\w-]+)*")  # or an environment variable


class Verdict(StrEnum):
    """The result of a check. Only a problem sets the exit code to 1."""

    OK = "ok"
    NOTE = "note"  # works, but the operator should know
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. A note or problem always has a fix.

    `wrong` is the part of a registration at a provider to correct, for pages where that can be done.
    """

    check: str
    verdict: Verdict
    sentence: str
    fix: str = ""
    wrong: Part = ""


def ok(check: str, sentence: str) -> Finding:
    """A finding that needs no action."""
    return Finding(check, Verdict.OK, sentence)


def note(check: str, sentence: str, *, fix: str, wrong: Part = "") -> Finding:
    """A finding that works, but should be known."""
    return Finding(check, Verdict.NOTE, sentence, fix, wrong)


def problem(check: str, sentence: str, *, fix: str, wrong: Part = "") -> Finding:
    """A finding that doesn't work or isn't safe."""
    return Finding(check, Verdict.PROBLEM, sentence, fix, wrong)


def correct_setting(refused: Exception) -> str:
    """The fix for refused settings, from the message, which starts with the name of the wrong setting."""
    name, _, rest = str(refused).partition(": ")
    if _SETTING.fullmatch(name) is None:
        return "correct the settings file"
    if name.startswith("providers.") and (host := _HOST.match(rest)) is not None:
        name += f".{host[1]}"  # the address of the provider file that this setting replaces
    if isinstance(refused, SecretUnreadable):
        return f"make the file readable for this user, or correct {name}"
    return f"correct {name}; docs/reference/settings.md has every setting and its limits"
