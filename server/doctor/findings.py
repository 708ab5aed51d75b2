"""One finding of the doctor: what was checked, its state, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check ended. Only a problem makes the exit code 1."""

    OK = "ok"
    NOTE = "note"  # works, but somebody should know
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. A note or problem always has a fix."""

    check: str
    verdict: Verdict
    sentence: str
    fix: str = ""


def ok(check: str, sentence: str) -> Finding:
    """Nothing to do."""
    return Finding(check, Verdict.OK, sentence)


def note(check: str, sentence: str, *, fix: str) -> Finding:
    """It works, but."""
    return Finding(check, Verdict.NOTE, sentence, fix)


def problem(check: str, sentence: str, *, fix: str) -> Finding:
    """It does not work, or is not safe."""
    return Finding(check, Verdict.PROBLEM, sentence, fix)
