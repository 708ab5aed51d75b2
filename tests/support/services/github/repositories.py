"""The sandbox's GitHub: repositories, issues, comments. Keeps what is written; independent of tokens and HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from providers.simulator.accounts import PEOPLE, Person

State = Literal["open", "closed"]


@dataclass(slots=True)
class Comment:
    id: int
    author: Person
    body: str
    at: float


@dataclass(slots=True)
class SimulatedIssue:
    id: int
    number: int
    author: Person
    title: str
    body: str | None
    at: float
    state: State = "open"
    comments: list[Comment] = field(default_factory=list[Comment])


@dataclass(frozen=True, slots=True)
class PullRequest:
    id: int
    number: int
    author: Person
    title: str
    body: str
    branch: str
    at: float
    comments: list[Comment] = field(default_factory=list[Comment])


@dataclass(slots=True)
class Repository:
    id: int
    owner: Person
    name: str
    is_private: bool
    description: str
    issues: list[SimulatedIssue] = field(default_factory=list[SimulatedIssue])
    pulls: list[PullRequest] = field(default_factory=list[PullRequest])
    files: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def full_name(self) -> str:
        return f"{self.owner.name}/{self.name}"


_REPOSITORIES: tuple[tuple[str, str, bool, str], ...] = (
    ("alice", "garden", False, "What grows where"),
    ("alice", "diary", True, "Private notes"),
    ("bob", "tools", False, "Small programs"),
)
_TITLES = ("Water the tomatoes", "Prune the roses", "Mend the fence", "Order seeds", "Paint the shed")


class Repositories:
    """All repositories; only their owner sees private ones."""

    def __init__(self, now: float) -> None:
        self._last = 1000
        self._all = [
            Repository(self._next(), PEOPLE[owner], name, is_private, description)
            for owner, name, is_private, description in _REPOSITORIES
        ]
        garden = self._all[0]
        for title in _TITLES:
            self.open_issue(garden, PEOPLE["bob"], title=title, body=None, at=now - 86400)
        garden.pulls.append(
            PullRequest(self._next(), 101, PEOPLE["bob"], "Add a herb bed", "Thyme and sage.", "herbs", now - 3600)
        )
        garden.files |= {"README.md": "# Garden\n\nWhat grows where: ✿\n", "docs/beds.md": "Three beds.\n"}

    def _next(self) -> int:
        self._last += 1
        return self._last

    def of(self, person: Person) -> list[Repository]:
        """The repositories of this person."""
        return [one for one in self._all if one.owner is person]

    def find(self, person: Person, owner: str, name: str) -> Repository | None:
        """A repository that this person may see."""
        return next(
            (
                one
                for one in self._all
                if one.full_name == f"{owner}/{name}" and (one.owner is person or not one.is_private)
            ),
            None,
        )

    def open_issue(
        self, repository: Repository, author: Person, *, title: str, body: str | None, at: float
    ) -> SimulatedIssue:
        """The next issue."""
        issue = SimulatedIssue(self._next(), len(repository.issues) + 1, author, title, body, at)
        repository.issues.append(issue)
        return issue

    def seen_by(self, person: Person) -> list[Repository]:
        """Every repository that this person may see."""
        return [one for one in self._all if one.owner is person or not one.is_private]

    def comment(self, issue: SimulatedIssue | PullRequest, author: Person, *, body: str, at: float) -> Comment:
        """The next comment."""
        comment = Comment(self._next(), author, body, at)
        issue.comments.append(comment)
        return comment
