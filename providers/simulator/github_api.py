"""The GitHub face's REST API: repositories, issues and comments in GitHub's words, with pages in `Link` headers.

That the token allows the operation was checked before. Addresses in answers are absolute, as GitHub's are.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha1
from typing import cast
from urllib.parse import unquote, urlencode

from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from providers.simulator.accounts import PEOPLE, Person
from providers.simulator.families.answers import iso
from providers.simulator.repositories import Comment, Issue, PullRequest, Repository
from providers.simulator.sandbox import Sandbox
from providers.simulator.wire import Call

_DOCUMENTATION = "https://docs.github.com/rest"
_MEDIA_TYPE = "application/json; charset=utf-8"


class GitHubRefused(Exception):
    """An error answer."""

    def __init__(self, status: int, message: str, **more: JsonValue) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.more = more


def refused(status: int, message: str, **more: JsonValue) -> Response:
    """An error in GitHub's shape."""
    body: dict[str, JsonValue] = {
        "message": message,
        **more,
        "documentation_url": _DOCUMENTATION,
        "status": str(status),
    }
    return JSONResponse(body, status_code=status, media_type=_MEDIA_TYPE)


def answer(sandbox: Sandbox, call: Call, *, account: str) -> Response:
    """One operation as this person."""
    asked = _Asked(sandbox, call, PEOPLE[account])
    try:
        return asked.run()
    except GitHubRefused as error:
        return refused(error.status, error.message, **error.more)


class _Asked:
    def __init__(self, sandbox: Sandbox, call: Call, person: Person) -> None:
        self._sandbox = sandbox
        self._call = call
        self._person = person
        self._parts = call.path_params["path"].split("/")
        self._base = f"{sandbox.url}/families/{call.path_params['mode']}/api"

    def run(self) -> Response:
        method, parts = self._call.method, self._parts
        match method, parts:
            case "GET", ["user"]:
                return _json(self._user(self._person, is_self=True))
            case "GET", ["user", "repos"]:
                return self._page([self._repository(one) for one in self._sandbox.repositories.of(self._person)])
            case "GET", ["rate_limit"]:
                core: JsonValue = {"limit": 5000, "remaining": 4999, "reset": round(self._sandbox.clock.now()) + 3600}
                return _json({"resources": {"core": core}, "rate": core})
            case "GET", ["repos", _, _]:
                return _json(self._repository(self._found()))
            case "GET", ["search", "issues"]:
                return self._search()
            case "GET", ["repos", _, _, "pulls"]:
                repository = self._found()
                return self._page([self._pull(repository, one) for one in repository.pulls])
            case "GET", ["repos", _, _, "pulls", _]:
                repository = self._found()
                found = next((one for one in repository.pulls if str(one.number) == self._parts[4]), None)
                if found is None:
                    raise GitHubRefused(404, "Not Found")
                more: dict[str, JsonValue] = {"merged": False, "changed_files": 2, "additions": 14, "deletions": 3}
                return _json(self._pull(repository, found) | more)
            case "GET", ["repos", _, _, "contents", *path]:
                return self._file("/".join(path))
            case "GET", ["repos", _, _, "issues"]:
                return self._list_issues()
            case "POST", ["repos", _, _, "issues"]:
                return self._open_issue()
            case "GET", ["repos", _, _, "issues", _]:
                return _json(self._issue(self._found(), self._own_issue()))
            case "PATCH", ["repos", _, _, "issues", _]:
                return self._change_issue()
            case "GET", ["repos", _, _, "issues", _, "comments"]:
                repository, issue = self._found(), self._numbered()
                return self._page([self._comment(repository, issue, one) for one in issue.comments])
            case "POST", ["repos", _, _, "issues", _, "comments"]:
                return self._add_comment()
            case _:
                raise GitHubRefused(404, "Not Found")

    # Operations

    def _list_issues(self) -> Response:
        repository, state = self._found(), self._call.query.get("state", "open")
        shown = [one for one in reversed(repository.issues) if state in {"all", one.state}]
        return self._page([self._issue(repository, one) for one in shown])

    def _search(self) -> Response:
        """All words in the title; qualifiers other than `repo:` are taken and find everything."""
        words = self._call.query.get("q", "").split()
        if not words:
            raise _invalid("Search", "q")
        only = [word.removeprefix("repo:") for word in words if word.startswith("repo:")]
        plain = [word.lower() for word in words if ":" not in word]
        found = [
            self._issue(repository, issue)
            for repository in self._sandbox.repositories.seen_by(self._person)
            if not only or repository.full_name in only
            for issue in reversed(repository.issues)
            if all(word in issue.title.lower() for word in plain)
        ]
        size = int(self._call.query.get("per_page", "30"))
        page = int(self._call.query.get("page", "1"))
        shown = cast("list[JsonValue]", found[(page - 1) * size : page * size])
        return _json({"total_count": len(found), "incomplete_results": False, "items": shown})

    def _file(self, path: str) -> Response:
        repository = self._found()
        content = repository.files.get(unquote(path))
        if content is None:
            raise GitHubRefused(404, "Not Found")
        encoded = b64encode(content.encode()).decode()
        lines = "\n".join(encoded[at : at + 60] for at in range(0, len(encoded), 60)) + "\n"
        return _json(
            {
                "type": "file",
                "encoding": "base64",
                "name": unquote(path).rpartition("/")[2],
                "path": unquote(path),
                "sha": sha1(content.encode(), usedforsecurity=False).hexdigest(),
                "size": len(content.encode()),
                "content": lines,
                "url": f"{self._base}/repos/{repository.full_name}/contents/{path}",
                "html_url": f"https://github.com/{repository.full_name}/blob/main/{unquote(path)}",
            }
        )

    def _open_issue(self) -> Response:
        repository, title = self._found(), self._call.text("title")
        if title is None:
            raise _invalid("Issue", "title")
        now = self._sandbox.clock.now()
        issue = self._sandbox.repositories.open_issue(
            repository, self._person, title=title, body=self._call.text("body"), at=now
        )
        self._sandbox.books.write(
            "posts", now, face="github", repository=repository.full_name, user=self._person.name, text=title
        )
        return _json(self._issue(repository, issue), status=201)

    def _change_issue(self) -> Response:
        repository, issue = self._found(), self._own_issue()
        state = self._call.text("state")
        if state not in {None, "open", "closed"}:
            raise _invalid("Issue", "state")
        issue.state = "closed" if state == "closed" else "open" if state == "open" else issue.state
        issue.title = self._call.text("title") or issue.title
        issue.body = self._call.text("body") or issue.body
        return _json(self._issue(repository, issue))

    def _add_comment(self) -> Response:
        repository, issue, body = self._found(), self._numbered(), self._call.text("body")
        if body is None:
            raise _invalid("IssueComment", "body")
        now = self._sandbox.clock.now()
        comment = self._sandbox.repositories.comment(issue, self._person, body=body, at=now)
        self._sandbox.books.write(
            "posts", now, face="github", repository=repository.full_name, user=self._person.name, text=body
        )
        return _json(self._comment(repository, issue, comment), status=201)

    # What is asked about

    def _found(self) -> Repository:
        found = self._sandbox.repositories.find(self._person, self._parts[1], self._parts[2])
        if found is None:
            raise GitHubRefused(404, "Not Found")
        return found

    def _numbered(self) -> Issue | PullRequest:
        issues = self._found().issues
        number = self._parts[4]
        for pull in self._found().pulls:
            if str(pull.number) == number:
                return pull
        if not number.isdecimal() or not 1 <= int(number) <= len(issues):
            raise GitHubRefused(404, "Not Found")
        return issues[int(number) - 1]

    def _own_issue(self) -> Issue:
        found = self._numbered()
        if not isinstance(found, Issue):
            raise GitHubRefused(404, "Not Found")
        return found

    def _page(self, items: Sequence[dict[str, JsonValue]]) -> Response:
        """One page; where there are others, `Link` says so (docs.github.com/rest: Using pagination)."""
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

    # Shapes

    def _user(self, person: Person, *, is_self: bool = False) -> dict[str, JsonValue]:
        found: dict[str, JsonValue] = {
            "login": person.name,
            "id": int(f"9{person.google_id}"[-9:]),
            "node_id": f"U_{person.name}",
            "url": f"{self._base}/users/{person.name}",
            "html_url": f"https://github.com/{person.name}",
            "type": "User",
            "site_admin": False,
        }
        return found | ({"name": person.display_name, "email": person.email} if is_self else {})

    def _repository(self, repository: Repository) -> dict[str, JsonValue]:
        address = f"{self._base}/repos/{repository.full_name}"
        is_owner = repository.owner is self._person
        return {
            "id": repository.id,
            "node_id": f"R_{repository.id}",
            "name": repository.name,
            "full_name": repository.full_name,
            "private": repository.is_private,
            "owner": self._user(repository.owner),
            "description": repository.description,
            "url": address,
            "html_url": f"https://github.com/{repository.full_name}",
            "issues_url": f"{address}/issues{{/number}}",
            "default_branch": "main",
            "open_issues_count": sum(one.state == "open" for one in repository.issues),
            "permissions": {"admin": is_owner, "push": is_owner, "pull": True},
        }

    def _issue(self, repository: Repository, issue: Issue) -> dict[str, JsonValue]:
        home = f"{self._base}/repos/{repository.full_name}"
        return {
            "id": issue.id,
            "node_id": f"I_{issue.id}",
            "number": issue.number,
            "state": issue.state,
            "title": issue.title,
            "body": issue.body,
            "user": self._user(issue.author),
            "labels": [],
            "assignees": [],
            "comments": len(issue.comments),
            "url": f"{home}/issues/{issue.number}",
            "repository_url": home,
            "comments_url": f"{home}/issues/{issue.number}/comments",
            "html_url": f"https://github.com/{repository.full_name}/issues/{issue.number}",
            "created_at": iso(issue.at),
            "updated_at": iso(issue.at),
            "closed_at": None,
        }

    def _pull(self, repository: Repository, pull: PullRequest) -> dict[str, JsonValue]:
        home = f"{self._base}/repos/{repository.full_name}"
        return {
            "id": pull.id,
            "node_id": f"PR_{pull.id}",
            "number": pull.number,
            "state": "open",
            "draft": False,
            "title": pull.title,
            "body": pull.body,
            "user": self._user(pull.author),
            "labels": [],
            "head": {"ref": pull.branch, "label": f"{repository.owner.name}:{pull.branch}"},
            "base": {"ref": "main", "label": f"{repository.owner.name}:main"},
            "url": f"{home}/pulls/{pull.number}",
            "html_url": f"https://github.com/{repository.full_name}/pull/{pull.number}",
            "created_at": iso(pull.at),
            "updated_at": iso(pull.at),
        }

    def _comment(self, repository: Repository, issue: Issue | PullRequest, comment: Comment) -> dict[str, JsonValue]:
        home = f"{self._base}/repos/{repository.full_name}"
        return {
            "id": comment.id,
            "node_id": f"IC_{comment.id}",
            "body": comment.body,
            "user": self._user(comment.author),
            "url": f"{home}/issues/comments/{comment.id}",
            "issue_url": f"{home}/issues/{issue.number}",
            "html_url": f"https://github.com/{repository.full_name}/issues/{issue.number}#issuecomment-{comment.id}",
            "created_at": iso(comment.at),
            "updated_at": iso(comment.at),
        }


def _invalid(resource: str, field: str) -> GitHubRefused:
    problem: JsonValue = {"resource": resource, "field": field, "code": "missing_field"}
    return GitHubRefused(422, "Validation Failed", errors=[problem])


def _json(content: JsonValue, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(content, status_code=status, headers=headers, media_type=_MEDIA_TYPE)
