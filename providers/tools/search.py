"""Find tools by what a person wants: matches the words of a request with the words of the tools (BM25), without a
model. Names, titles, services, descriptions and arguments count, names the most. One small table translates people's
words for things and actions to those of the tools; a word with a shape, like `#room` or `OPS-42`, reveals what it is.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Final

from providers.tools.spec import ToolSpec

_K1: Final = 1.2  # how soon repetitions of a word stop counting
_B: Final = 0.3  # how much less a long text counts; all of these are short
_NAME, _TITLE, _SERVICE, _ABOUT, _ARGUMENT = 3.0, 2.0, 2.0, 1.0, 0.5
_MEANT: Final = 0.8  # weight of a translated word, relative to one in the request

_WORD: Final = re.compile(r"[a-z0-9]+")
_SHAPES: Final = (
    (re.compile(r"(?<!\w)#\w"), "channel slack"),
    (re.compile(r"(?<!\w)@\w"), "slack people"),
    (re.compile(r"\w@\w+\.\w"), "mail"),
    (re.compile(r"\b[A-Z][A-Z0-9]+-\d+\b"), "issue jira linear"),
    (re.compile(r"(?<![\w/.])[\w.-]+/[\w.-]+(?![\w/])"), "repository github"),
    (
        re.compile(r"\b(file|open|raise|report) (a|an|another|this) (bug|ticket|issue|task|problem)\b", re.IGNORECASE),
        "create issue",
    ),
    (
        re.compile(r"\b(did|has|have|is|are) (\w+ ){1,2}(say|said|write|wrote|written|posted)\b", re.IGNORECASE),
        "read message",
    ),
    (re.compile(r"\b\d{1,2}(:\d\d)?\s?(am|pm|o'clock)\b|\b\d{1,2}:\d\d\b", re.IGNORECASE), "event calendar"),
)
# People's words -> the tools' words.
_MEANINGS: Final = {
    # things
    "email inbox mailbox newsletter unread": "mail",
    "dm ping privately private": "direct message slack",
    "chat conversation": "slack message",
    "room group": "channel slack",
    "discussion underneath below": "thread slack",
    "emoji thumb thumbs heart like": "react emoji slack",
    "colleague teammate coworker member user who timezone": "people slack",
    "meeting appointment call standup sync agenda invite invitation booked busy schedule offsite workshop lunch": (
        "event calendar"
    ),
    "monday tuesday wednesday thursday friday saturday sunday tomorrow tonight today week weekend": "event calendar",
    "available availability slot gap meet": "free time calendar",
    "doc document spreadsheet sheet slide deck presentation pdf folder": "file drive",
    "upcoming": "event list",
    "wiki": "page notion",
    "bug ticket task story defect crash reported": "issue",
    "project sprint backlog": "issue project jira",
    "repo codebase code branch commit": "repository github file",
    "pr merge review diff": "pull request github",
    "crm customer client lead prospect phone": "contact hubspot salesforce",
    "company organization firm": "account salesforce",
    "fan": "facebook page",
    "site instance": "site",
    # actions
    "look where unread find any anyone anything mention mentioned about": "search",
    "show open summarize summary says exactly": "read",
    "say said": "message read comment",
    "catch missed newest latest": "history newest read",
    "tell know announce share publish": "post message",
    "answer respond reply": "reply send comment",
    "prepare compose yet before": "draft",
    "mail email forward off": "send mail",
    "book arrange plan schedule": "create event",
    "new start make add file raise report set": "create",
    "move reschedule postpone shift rename edit fix correct": "change update",
    "cancel remove drop erase clear": "delete",
    "log record jot down": "note",
    "remark": "comment",
    "which everything all": "list",
    "waiting pending": "open list",
}
_COMMON: Final = (
    "a an and are as at be but by can could did do does for from get go got had has have he her him his how i if in is "
    "it its let me my of on one or our out please she so that the their them then there these they this to up us was "
    "we were will with would you your don t s m re ll ve d person vault id ids not"
)
_STOP: Final = frozenset(_COMMON.split())


def _stem(word: str) -> str:
    """A word without its endings; the result need not be a word."""
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        word = word[:-1]
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            word = word[: -len(ending)]
            break
    word = word.removesuffix("e")
    return word[:-1] if len(word) > 2 and word[-1] == word[-2] else word


def _words(text: str) -> list[str]:
    return [_stem(word) for word in _WORD.findall(text.lower()) if word not in _STOP]


def _translations() -> Mapping[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for said, meant in _MEANINGS.items():
        for word in _words(said):
            found.setdefault(word, set()).update(_words(meant))
    return {word: frozenset(meant - {word}) for word, meant in found.items()}


_TRANSLATED: Final = _translations()


def _weights(request: str) -> Mapping[str, float]:
    """The words to search for, with their weights."""
    said = set(_words(request))
    meant = {word for one in said for word in _TRANSLATED.get(one, ())}
    for shape, words in _SHAPES:
        if shape.search(request):
            meant |= set(_words(words))
    return {word: 1.0 if word in said else _MEANT for word in sorted(said | meant)}


class ToolIndex:
    """The words of tools. `titles`: provider -> its display name."""

    def __init__(self, specs: Sequence[ToolSpec], *, titles: Mapping[str, str]) -> None:
        self._specs = tuple(specs)
        self.titles = titles

    @cached_property
    def _words(self) -> _Words:  # built at the first search, because few processes have one
        return _Words([_count(spec, self.titles.get(spec.provider or "", "")) for spec in self._specs])

    def find(self, request: str, *, among: frozenset[str], limit: int) -> tuple[ToolSpec, ...]:
        """The best matches among the tools with these names, best first; none if no word matches."""
        weights = _weights(request)
        scored = [
            (self._words.score(weights, number), -number)
            for number, spec in enumerate(self._specs)
            if spec.name in among
        ]
        best = sorted((one for one in scored if one[0] > 0), reverse=True)[:limit]
        return tuple(self._specs[-number] for _, number in best)


class _Words:
    """How often each word occurs in each text, and how rare it is."""

    def __init__(self, counts: Sequence[Mapping[str, float]]) -> None:
        self._counts = counts
        self._lengths = [sum(one.values()) for one in counts]
        self._mean = sum(self._lengths) / max(1, len(counts))
        frequency = Counter(word for one in counts for word in one)
        self._rarity = {word: math.log(1 + (len(counts) - n + 0.5) / (n + 0.5)) for word, n in frequency.items()}

    def score(self, weights: Mapping[str, float], number: int) -> float:
        """How well a text matches (Robertson, Zaragoza: The Probabilistic Relevance Framework, 2009)."""
        counts, share = self._counts[number], 1 - _B + _B * self._lengths[number] / self._mean
        return sum(
            weight * self._rarity[word] * counts[word] * (_K1 + 1) / (counts[word] + _K1 * share)
            for word, weight in weights.items()
            if word in counts
        )


def _count(spec: ToolSpec, service: str) -> Mapping[str, float]:
    """How often each word occurs in the tool's texts, weighted by place."""
    counts: dict[str, float] = {}
    texts: Iterable[tuple[float, str]] = (
        (_NAME, spec.name.replace("_", " ")),
        (_TITLE, spec.title),
        (_SERVICE, f"{service} {spec.provider or ''}"),
        (_ABOUT, spec.description),
        *((_ARGUMENT, name.replace("_", " ")) for name in spec.argument_names),
    )
    for weight, text in texts:
        for word in set(_words(text)):
            counts[word] = counts.get(word, 0.0) + weight
    return counts
