"""GitHub's answers as its published OpenAPI document describes them: users, repositories, issues, pull requests, files.

They are complete, like GitHub's, because an SDK may read any member. `api` is the base of absolute URLs.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1

from pydantic import JsonValue

from providers.simulator.accounts import Person
from providers.simulator.families.answers import iso
from providers.simulator.families.scoped_tokens import WEB, github_user
from tests.support.services.github.repositories import Comment, PullRequest, Repository, SimulatedIssue

Shape = dict[str, JsonValue]
_MEMBER = "MEMBER"
_SINCE = "2020-01-01T00:00:00Z"  # of accounts and repositories
_REPOSITORY_PLACES = {
    "archive": "{archive_format}{/ref}",
    "assignees": "assignees{/user}",
    "blobs": "git/blobs{/sha}",
    "branches": "branches{/branch}",
    "collaborators": "collaborators{/collaborator}",
    "comments": "comments{/number}",
    "commits": "commits{/sha}",
    "compare": "compare/{base}...{head}",
    "contents": "contents/{+path}",
    "contributors": "contributors",
    "deployments": "deployments",
    "downloads": "downloads",
    "events": "events",
    "forks": "forks",
    "git_commits": "git/commits{/sha}",
    "git_refs": "git/refs{/sha}",
    "git_tags": "git/tags{/sha}",
    "hooks": "hooks",
    "issue_comment": "issues/comments{/number}",
    "issue_events": "issues/events{/number}",
    "issues": "issues{/number}",
    "keys": "keys{/key_id}",
    "labels": "labels{/name}",
    "languages": "languages",
    "merges": "merges",
    "milestones": "milestones{/number}",
    "notifications": "notifications{?since,all,participating}",
    "pulls": "pulls{/number}",
    "releases": "releases{/id}",
    "stargazers": "stargazers",
    "statuses": "statuses/{sha}",
    "subscribers": "subscribers",
    "subscription": "subscription",
    "tags": "tags",
    "teams": "teams",
    "trees": "git/trees{/sha}",
}


def _sha(text: str) -> str:
    return sha1(text.encode(), usedforsecurity=False).hexdigest()


def own_user(person: Person, *, api: str, public: int, private: int) -> Shape:
    """A user as they see themselves, including the number of their repositories."""
    unsaid = ("company", "location", "hireable", "bio")
    counts = ("public_gists", "followers", "following", "private_gists", "disk_usage", "collaborators")
    return {
        **github_user(person, api=api),
        "name": person.display_name,
        "email": person.email,
        "blog": "",
        **dict.fromkeys(unsaid),
        **dict.fromkeys(counts, 0),
        "public_repos": public,
        "total_private_repos": private,
        "owned_private_repos": private,
        "two_factor_authentication": True,
        "created_at": _SINCE,
        "updated_at": _SINCE,
    }


def repository(known: Repository, *, api: str, viewer: Person) -> Shape:
    """A repository in a list."""
    at, name = f"{api}/repos/{known.full_name}", known.full_name
    is_owner = known.owner is viewer
    waiting = sum(one.state == "open" for one in known.issues) + len(known.pulls)
    none = ("forks", "forks_count", "stargazers_count", "watchers", "watchers_count", "size")
    has = {"issues": True, "projects": False, "downloads": True, "wiki": False, "pages": False, "discussions": False}
    return {
        "id": known.id,
        "node_id": f"R_{known.id}",
        "name": known.name,
        "full_name": name,
        "private": known.is_private,
        "owner": github_user(known.owner, api=api),
        "description": known.description,
        "fork": False,
        "url": at,
        "html_url": f"{WEB}/{name}",
        **{f"{what}_url": f"{at}/{place}" for what, place in _REPOSITORY_PLACES.items()},
        "clone_url": f"{WEB}/{name}.git",
        "git_url": f"git://github.com/{name}.git",
        "ssh_url": f"git@github.com:{name}.git",
        "svn_url": f"{WEB}/{name}",
        **dict.fromkeys(("mirror_url", "homepage", "language", "license")),
        **dict.fromkeys(none, 0),
        **{f"has_{what}": value for what, value in has.items()},
        "archived": False,
        "disabled": False,
        "default_branch": "main",
        "open_issues": waiting,
        "open_issues_count": waiting,
        **dict.fromkeys(("created_at", "updated_at", "pushed_at"), _SINCE),
        "permissions": {"admin": is_owner, "push": is_owner, "pull": True},
    }


def whole_repository(known: Repository, *, api: str, viewer: Person) -> Shape:
    """A repository by itself."""
    return {**repository(known, api=api, viewer=viewer), "network_count": 0, "subscribers_count": 1}


def _discussion(known: Repository, one: SimulatedIssue | PullRequest, *, api: str) -> Shape:
    """What issues and pull requests have in common."""
    return {
        "id": one.id,
        "number": one.number,
        "title": one.title,
        "body": one.body,
        "user": github_user(one.author, api=api),
        "labels": [],
        "assignee": None,
        "assignees": [],
        "milestone": None,
        "locked": False,
        "author_association": "OWNER" if one.author is known.owner else _MEMBER,
        "comments_url": f"{api}/repos/{known.full_name}/issues/{one.number}/comments",
        "created_at": iso(one.at),
        "updated_at": iso(one.at),
    }


def issue(known: Repository, one: SimulatedIssue, *, api: str) -> Shape:
    """An issue."""
    home = f"{api}/repos/{known.full_name}"
    at = f"{home}/issues/{one.number}"
    return {
        **_discussion(known, one, api=api),
        "node_id": f"I_{one.id}",
        "state": one.state,
        "comments": len(one.comments),
        "url": at,
        "repository_url": home,
        "labels_url": f"{at}/labels{{/name}}",
        "events_url": f"{at}/events",
        "html_url": f"{WEB}/{known.full_name}/issues/{one.number}",
        "closed_at": iso(one.at) if one.state == "closed" else None,
    }


def found_issue(known: Repository, one: SimulatedIssue, *, api: str) -> Shape:
    """An issue in search results; one without text has no `body`."""
    shape = {**issue(known, one, api=api), "score": 1.0}
    return {name: value for name, value in shape.items() if name != "body" or value is not None}


def pull(known: Repository, one: PullRequest, *, api: str, viewer: Person) -> Shape:
    """A pull request in a list."""
    home = f"{api}/repos/{known.full_name}"
    at, page = f"{home}/pulls/{one.number}", f"{WEB}/{known.full_name}/pull/{one.number}"
    issue_at = f"{home}/issues/{one.number}"
    sides: dict[str, JsonValue] = {
        side: {
            "ref": branch,
            "label": f"{known.owner.name}:{branch}",
            "sha": _sha(f"{known.full_name} {branch}"),
            "user": github_user(known.owner, api=api),
            "repo": repository(known, api=api, viewer=viewer),
        }
        for side, branch in (("head", one.branch), ("base", "main"))
    }
    places = {
        "commits": f"{at}/commits",
        "review_comments": f"{at}/comments",
        "review_comment": f"{home}/pulls/comments{{/number}}",
        "comments": f"{issue_at}/comments",
        "statuses": f"{home}/statuses/{_sha(f'{known.full_name} {one.branch}')}",
    }
    links = {"self": at, "html": page, "issue": issue_at, **places}
    return {
        **_discussion(known, one, api=api),
        "node_id": f"PR_{one.id}",
        "state": "open",
        "draft": False,
        "requested_reviewers": [],
        "requested_teams": [],
        **sides,
        "url": at,
        "html_url": page,
        "diff_url": f"{page}.diff",
        "patch_url": f"{page}.patch",
        "issue_url": issue_at,
        **{f"{what}_url": place for what, place in places.items()},
        "_links": {what: {"href": place} for what, place in links.items()},
        **dict.fromkeys(("closed_at", "merged_at", "merge_commit_sha", "auto_merge")),
    }


def whole_pull(known: Repository, one: PullRequest, *, api: str, viewer: Person) -> Shape:
    """A pull request by itself."""
    return {
        **pull(known, one, api=api, viewer=viewer),
        "merged": False,
        "mergeable": True,
        "mergeable_state": "clean",
        "merged_by": None,
        "maintainer_can_modify": False,
        "comments": len(one.comments),
        "review_comments": 0,
        "commits": 1,
        "changed_files": 2,
        "additions": 14,
        "deletions": 3,
    }


def comment(known: Repository, about: SimulatedIssue | PullRequest, one: Comment, *, api: str) -> Shape:
    """A comment on an issue or a pull request."""
    home = f"{api}/repos/{known.full_name}"
    return {
        "id": one.id,
        "node_id": f"IC_{one.id}",
        "body": one.body,
        "user": github_user(one.author, api=api),
        "author_association": "OWNER" if one.author is known.owner else _MEMBER,
        "url": f"{home}/issues/comments/{one.id}",
        "issue_url": f"{home}/issues/{about.number}",
        "html_url": f"{WEB}/{known.full_name}/issues/{about.number}#issuecomment-{one.id}",
        "created_at": iso(one.at),
        "updated_at": iso(one.at),
    }


def file(known: Repository, path: str, content: str, *, api: str, asked: str) -> Shape:
    """A file; `asked` is its path as the caller spelled it."""
    encoded = b64encode(content.encode()).decode()
    lines = "\n".join(encoded[at : at + 60] for at in range(0, len(encoded), 60)) + "\n"
    at, sha = f"{api}/repos/{known.full_name}/contents/{asked}", _sha(content)
    page, blob = f"{WEB}/{known.full_name}/blob/main/{path}", f"{api}/repos/{known.full_name}/git/blobs/{sha}"
    return {
        "type": "file",
        "encoding": "base64",
        "name": path.rpartition("/")[2],
        "path": path,
        "sha": sha,
        "size": len(content.encode()),
        "content": lines,
        "url": at,
        "git_url": blob,
        "html_url": page,
        "download_url": f"https://raw.githubusercontent.com/{known.full_name}/main/{path}",
        "_links": {"self": at, "git": blob, "html": page},
    }


def tree(known: Repository, *, api: str, is_whole: bool) -> Shape:
    """The content of a repository: folders (`tree`) and files (`blob`), at the top or, with `is_whole`, everywhere."""
    at = f"{api}/repos/{known.full_name}/git"
    folders = {path[:end] for path in known.files for end, letter in enumerate(path) if letter == "/"}
    found: list[JsonValue] = []
    for path in sorted({*known.files, *folders}):
        if "/" in path and not is_whole:
            continue
        content = known.files.get(path)
        sha = _sha(path if content is None else content)
        entry: dict[str, JsonValue] = {"path": path, "mode": "040000", "type": "tree", "sha": sha}
        if content is not None:
            entry |= {"mode": "100644", "type": "blob", "size": len(content.encode())}
        found.append({**entry, "url": f"{at}/{'trees' if content is None else 'blobs'}/{sha}"})
    whole = _sha(known.full_name)
    return {"sha": whole, "url": f"{at}/trees/{whole}", "tree": found, "truncated": False}


def rate_limit(now: float) -> Shape:
    """The remaining rate limit."""

    def allowance(limit: int) -> JsonValue:
        return {"limit": limit, "remaining": limit - 1, "reset": round(now) + 3600, "used": 1}

    return {"resources": {"core": allowance(5000), "search": allowance(30)}, "rate": allowance(5000)}
