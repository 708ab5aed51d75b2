"""The GitHub face's REST API: repositories, issues, and comments in GitHub's format, with paging in `Link` headers.

The caller has checked that the token allows the operation. `shapes` builds the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast
from urllib.parse import unquote, urlencode

from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from providers.simulator.accounts import PEOPLE, Person
from providers.simulator.calls import SimulatedCall
from providers.simulator.state.sandbox import Sandbox
from providers.simulator.state.tokens import AccessToken
from tests.support.services.github import shapes
from tests.support.services.github.repositories import PullRequest, Repositories, Repository, SimulatedIssue

_DOCUMENTATION = "https://docs.github.com/rest"
_MEDIA_TYPE = "application/json; charset=utf-8"


class GitHubRefused(Exception):
    """An error answer."""

    def __init__(self, status: int, message: str, **more: JsonValue) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.more = more


def refusal(status: int, message: str, **more: JsonValue) -> Response:
    """An error in GitHub's shape."""
    body: dict[str, JsonValue] = {"message": message, **more, "documentation_url": _DOCUMENTATION}
    if status != 422:  # validation errors contain no status
        body["status"] = str(status)
    return JSONResponse(body, status_code=status, media_type=_MEDIA_TYPE)


def answer(sandbox: Sandbox, call: SimulatedCall, token: AccessToken) -> Response:
    """One operation as the person of the token."""
    asked = _Operation(sandbox, call, PEOPLE[token.family.account])
    try:
        return asked.run()
    except GitHubRefused as error:
        return refusal(error.status, error.message, **error.more)


class _Operation:
    def __init__(self, sandbox: Sandbox, call: SimulatedCall, person: Person) -> None:
        self._sandbox = sandbox
        kept = sandbox.added.setdefault(("github", ""), Repositories(now=sandbox.clock.now()))
        self._repositories = cast("Repositories", kept)
        self._call = call
        self._person = person
        self._parts = call.path_params["path"].split("/")
        self._base = f"{sandbox.url}/families/{call.path_params['mode']}/api"

    def run(self) -> Response:
        method, parts = self._call.method, self._parts
        match method, parts:
            case "GET", ["user"]:
                own = self._repositories.of(self._person)
                private = sum(one.is_private for one in own)
                return _json(shapes.own_user(self._person, api=self._base, public=len(own) - private, private=private))
            case "GET", ["user", "repos"]:
                own = self._repositories.of(self._person)
                return self._page([shapes.repository(one, api=self._base, viewer=self._person) for one in own])
            case "GET", ["rate_limit"]:
                return _json(shapes.rate_limit(self._sandbox.clock.now()))
            case "GET", ["repos", _, _]:
                return _json(shapes.whole_repository(self._repository(), api=self._base, viewer=self._person))
            case "GET", ["search", "issues"]:
                return self._search()
            case "GET", ["repos", _, _, "pulls"]:
                found, viewer = self._repository(), self._person
                return self._page([shapes.pull(found, one, api=self._base, viewer=viewer) for one in found.pulls])
            case "GET", ["repos", _, _, "pulls", _]:
                found = self._item()
                if not isinstance(found, PullRequest):
                    raise GitHubRefused(404, "Not Found")
                return _json(shapes.whole_pull(self._repository(), found, api=self._base, viewer=self._person))
            case "GET", ["repos", _, _, "contents", *path]:
                return self._file("/".join(path))
            case "GET", ["repos", _, _, "git", "trees", ref] if ref in {"HEAD", "main"}:
                whole = self._call.query.get("recursive") is not None
                return _json(shapes.tree(self._repository(), api=self._base, is_whole=whole))
            case "GET", ["repos", _, _, "issues"]:
                return self._list_issues()
            case "POST", ["repos", _, _, "issues"]:
                return self._open_issue()
            case "GET", ["repos", _, _, "issues", _]:
                return _json(shapes.issue(self._repository(), self._own_issue(), api=self._base))
            case "PATCH", ["repos", _, _, "issues", _]:
                return self._change_issue()
            case "GET", ["repos", _, _, "issues", _, "comments"]:
                repository, issue = self._repository(), self._item()
                return self._page([shapes.comment(repository, issue, one, api=self._base) for one in issue.comments])
            case "POST", ["repos", _, _, "issues", _, "comments"]:
                return self._add_comment()
            case _:
                raise GitHubRefused(404, "Not Found")

    # Operations

    def _list_issues(self) -> Response:
        repository, state = self._repository(), self._call.query.get("state", "open")
        shown = [one for one in reversed(repository.issues) if state in {"all", one.state}]
        return self._page([shapes.issue(repository, one, api=self._base) for one in shown])

    def _search(self) -> Response:
        """All words in the title; qualifiers other than `repo:` are accepted and ignored."""
        words = self._call.query.get("q", "").split()
        if not words:
            raise _invalid("Search", "q")
        only = [word.removeprefix("repo:") for word in words if word.startswith("repo:")]
        plain = [word.lower() for word in words if ":" not in word]
        found = [
            shapes.found_issue(repository, issue, api=self._base)
            for repository in self._repositories.seen_by(self._person)
            if not only or repository.full_name in only
            for issue in reversed(repository.issues)
            if all(word in issue.title.lower() for word in plain)
        ]
        size = int(self._call.query.get("per_page", "30"))
        page = int(self._call.query.get("page", "1"))
        shown = cast("list[JsonValue]", found[(page - 1) * size : page * size])
        return _json({"total_count": len(found), "incomplete_results": False, "search_type": "lexical", "items": shown})

    def _file(self, path: str) -> Response:
        repository = self._repository()
        content = repository.files.get(unquote(path))
        if content is None:
            raise GitHubRefused(404, "Not Found")
        return _json(shapes.file(repository, unquote(path), content, api=self._base, asked=path))

    def _open_issue(self) -> Response:
        repository, title = self._repository(), self._call.text("title")
        if title is None:
            raise _invalid("Issue", "title")
        now = self._sandbox.clock.now()
        issue = self._repositories.open_issue(
            repository, self._person, title=title, body=self._call.text("body"), at=now
        )
        self._sandbox.books.write(
            "posts", now, face="github", repository=repository.full_name, user=self._person.name, text=title
        )
        return _json(shapes.issue(repository, issue, api=self._base), status=201)

    def _change_issue(self) -> Response:
        repository, issue = self._repository(), self._own_issue()
        state = self._call.text("state")
        if state not in {None, "open", "closed"}:
            raise _invalid("Issue", "state")
        issue.state = "closed" if state == "closed" else "open" if state == "open" else issue.state
        issue.title = self._call.text("title") or issue.title
        issue.body = self._call.text("body") or issue.body
        return _json(shapes.issue(repository, issue, api=self._base))

    def _add_comment(self) -> Response:
        repository, issue, body = self._repository(), self._item(), self._call.text("body")
        if body is None:
            raise _invalid("IssueComment", "body")
        now = self._sandbox.clock.now()
        comment = self._repositories.comment(issue, self._person, body=body, at=now)
        self._sandbox.books.write(
            "posts", now, face="github", repository=repository.full_name, user=self._person.name, text=body
        )
        return _json(shapes.comment(repository, issue, comment, api=self._base), status=201)

    # The objects that requests are about

    def _repository(self) -> Repository:
        found = self._repositories.find(self._person, self._parts[1], self._parts[2])
        if found is None:
            raise GitHubRefused(404, "Not Found")
        return found

    def _item(self) -> SimulatedIssue | PullRequest:
        issues = self._repository().issues
        number = self._parts[4]
        for pull in self._repository().pulls:
            if str(pull.number) == number:
                return pull
        if not number.isdecimal() or not 1 <= int(number) <= len(issues):
            raise GitHubRefused(404, "Not Found")
        return issues[int(number) - 1]

    def _own_issue(self) -> SimulatedIssue:
        found = self._item()
        if not isinstance(found, SimulatedIssue):
            raise GitHubRefused(404, "Not Found")
        return found

    def _page(self, items: Sequence[dict[str, JsonValue]]) -> Response:
        """One page; `Link` names the others, if any (docs.github.com/rest: Using pagination)."""
        query = self._call.query
        size, number = query.get("per_page", "30"), query.get("page", "1")
        if not size.isdecimal() or not number.isdecimal():
            raise GitHubRefused(422, "Validation Failed")
        each, page = min(max(int(size), 1), 100), max(int(number), 1)
        last = max(1, -(-len(items) // each))
        links = {"prev": page - 1, "next": page + 1, "last": last, "first": 1}
        if page >= last:
            del links["next"], links["last"]
        if page == 1:
            del links["prev"], links["first"]
        address = f"{self._base}/{self._call.path_params['path']}"
        link = ", ".join(
            f'<{address}?{urlencode({**query, "page": there})}>; rel="{name}"' for name, there in links.items()
        )
        shown = cast("list[JsonValue]", list(items[(page - 1) * each : page * each]))
        return _json(shown, headers={"link": link} if link else {})


def _invalid(resource: str, field: str) -> GitHubRefused:
    problem: JsonValue = {"resource": resource, "field": field, "code": "missing_field"}
    return GitHubRefused(422, "Validation Failed", errors=[problem])


def _json(content: JsonValue, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(content, status_code=status, headers=headers, media_type=_MEDIA_TYPE)
