"""Which tests run which line, how long each takes, and in which order they meet a mutant."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from math import log
from pathlib import Path

MEASURED = ("server/*", "vault/*")  # one record serves everything that tries mutants
EACH = 2  # tests of each path through a function, which come before the others
NEAREST = 6  # tests with the most similar words, which come before all others
FIRST = 6  # tests of one file, which come before those of the next file


@dataclass
class FileRecord:
    """What the tests of one test file did without a mutant: seconds (-1: it failed), and lines by source file.

    A line's tests are the bits of a number, in the order of `seconds`. `texts` names the source texts at that time.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[str, str]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        with gzip.open(unfinished, "wt", encoding="utf-8", compresslevel=3) as file:
            json.dump([self.seconds, self.lines, self.texts], file)
        unfinished.replace(path)

    @classmethod
    def read(cls, path: Path) -> FileRecord:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return cls(*json.load(file))


class Wording:
    """Which tests use the words that occur in a line: rare words that both contain count most."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._words = {test: _words(text) for test, text in texts.items()}
        self._often = Counter(word for words in self._words.values() for word in words)

    def tests_with(self, names: Collection[str]) -> set[str]:
        """Tests that use one of these names."""
        wanted = {word for name in names for word in _words(name)}
        return {test for test, words in self._words.items() if words & wanted}

    def nearest(self, tests: Collection[str], text: str) -> list[str]:
        """Those few of these tests that have the most words in common with the text."""
        wanted = _words(text)

        def weight(test: str) -> float:
            return sum(log(len(self._words) / self._often[one]) for one in wanted & self._words[test])

        return sorted(tests, key=lambda one: (-weight(one), one))[:NEAREST]


def _words(text: str) -> frozenset[str]:
    """Its words, and each name that consists of several, which is rarer than its words."""
    small = text.lower()
    return frozenset(re.findall("[a-z]{3,}", small) + re.findall("[a-z0-9]+(?:_[a-z0-9]+)+", small))


class Reach:
    """Everything that was recorded about the given source files."""

    def __init__(self, recorded: Collection[FileRecord], sources: Mapping[str, str], texts: Path) -> None:
        """`sources`: by file, its text now; `texts` holds earlier texts, so that lines that moved are found again."""
        self.seconds = {test: seconds for one in recorded for test, seconds in one.seconds.items()}
        self._texts = {file: now.splitlines() for file, now in sources.items()}
        self._tests: dict[str, dict[int, set[str]]] = {file: defaultdict(set) for file in sources}
        moved: dict[tuple[str, str], Mapping[int, Sequence[int]]] = {}
        for one in recorded:
            names = list(one.seconds)
            for file in one.lines.keys() & sources.keys():
                text = one.texts[file]
                if (file, text) not in moved:
                    moved[file, text] = _line_map((texts / text).read_text(encoding="utf-8"), sources[file])
                for line, mask in one.lines[file].items():
                    bits = int(mask, 16)
                    for place in moved[file, text].get(int(line), ()):
                        self._tests[file][place].update(name for at, name in enumerate(names) if bits >> at & 1)

    def of_line(self, file: str, line: int) -> set[str]:
        return self._tests.get(file, {}).get(line, set())

    def of_name(self, name: str) -> set[str]:
        """Tests of the lines that contain a name."""
        word = re.compile(rf"\b{re.escape(name)}\b")
        return {
            test
            for file, lines in self._texts.items()
            for number, text in enumerate(lines, start=1)
            if word.search(text)
            for test in self.of_line(file, number)
        }

    def of_file(self, file: str) -> set[str]:
        return {test for tests in self._tests.get(file, {}).values() for test in tests}

    def in_order(self, file: str, tests: Collection[str], *, around: Collection[int] = (), seconds: float) -> list[str]:
        """The best tests, up to this many seconds: cheap ones of each path through nearby lines, rare paths first.

        Then test files named like the source, a few tests from each.
        """
        ways: dict[frozenset[int], list[str]] = defaultdict(list)
        for test in sorted(tests, key=self._cost):
            ways[frozenset(line for line in around if test in self.of_line(file, line))].append(test)
        first = [test for way in sorted(ways.values(), key=len) for test in way[:EACH]] if len(ways) > 1 else []
        by_file: dict[str, list[str]] = defaultdict(list)
        for test in sorted(set(tests).difference(first), key=self._cost):
            by_file[test.partition("::")[0]].append(test)
        ranked = sorted(by_file, key=lambda one: (-likeness(file, one), self._cost(by_file[one][0])))
        rounds = [
            *first,
            *(test for one in ranked for test in by_file[one][:FIRST]),
            *(test for one in ranked for test in by_file[one][FIRST:]),
        ]
        chosen: list[str] = []
        left = seconds
        for test in rounds:
            chosen.append(test)
            left -= self._cost(test)[0]
            if left <= 0:
                break
        return chosen

    def cheapest(self, tests: Collection[str], *, count: int) -> list[str]:
        """This many of these tests: one from each test file before a second one from any."""
        by_file: dict[str, list[str]] = defaultdict(list)
        for test in sorted(tests, key=self._cost):
            by_file[test.partition("::")[0]].append(test)
        turns = [(turn, *self._cost(test)) for names in by_file.values() for turn, test in enumerate(names)]
        return [test for _, _, test in sorted(turns)[:count]]

    def _cost(self, test: str) -> tuple[float, str]:
        return self.seconds.get(test, 1), test


def likeness(source: str, test: str) -> float:
    """How many words the paths share; a word of the file's name counts twice."""
    words, theirs = (set(re.findall("[a-z0-9]+", one.removesuffix(".py"))) for one in (source, test))
    stem = set(re.findall("[a-z0-9]+", Path(source).stem))
    same = {one for one in words if any(one.rstrip("s") == other.rstrip("s") for other in theirs)}
    return len(same) + len(same & stem)


def _line_map(then: str, now: str) -> Mapping[int, Sequence[int]]:
    """For each line then, the lines that took its place; whoever reached the line before new ones may reach those."""
    if then == now:
        return {line: (line,) for line in range(1, then.count("\n") + 2)}
    steps = SequenceMatcher(None, then.splitlines(), now.splitlines(), autojunk=False).get_opcodes()
    found: dict[int, tuple[int, ...]] = {}
    for kind, first, last, start, end in steps:
        if kind == "equal":
            found |= {first + at + 1: (start + at + 1,) for at in range(last - first)}
            continue
        for line in range(first + 1, last + 1) or (first,):
            found[line] = (*found.get(line, ()), *range(start + 1, end + 1))
    return found
