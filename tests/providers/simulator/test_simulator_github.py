"""The GitHub face of the simulator: repositories, issues, pages and refusals as GitHub documents them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

import httpx2
import pytest

from providers.simulator import Simulator, consent
from tests.support.services import running_services
from tests.support.simulator_apps import CLIENT, REDIRECT, parameters


@dataclass(frozen=True)
class App:
    """An app at the GitHub face, and the people who allowed it."""

    simulator: Simulator
    http: httpx2.AsyncClient

    @property
    def base(self) -> str:
        return f"{self.simulator.url}/families/github"

    async def token(self, account: str) -> str:
        query = {"client_id": CLIENT[0], "redirect_uri": REDIRECT, "state": "st", "response_type": "code"}
        back = await consent(str(httpx2.URL(f"{self.base}/authorize", params=query)), account=account)
        form = {"grant_type": "authorization_code", "code": parameters(back)["code"], "redirect_uri": REDIRECT}
        secret = {"client_id": CLIENT[0], "client_secret": CLIENT[1]}
        answer = await self.http.post(f"{self.base}/token", data=form | secret, headers={"accept": "application/json"})
        return answer.json()["access_token"]

    async def api(self, method: str, path: str, token: str, *, json: object = None, **query: str) -> httpx2.Response:
        headers = {"authorization": f"Bearer {token}"}
        return await self.http.request(
            method, f"{self.base}/api{path}", params=query or None, json=json, headers=headers
        )


@pytest.fixture
async def app() -> AsyncGenerator[App]:
    async with running_services() as simulator, httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        yield App(simulator, http)


async def test_a_person_sees_their_own_and_public_repositories_only(app: App) -> None:
    alice, bob = await app.token("alice"), await app.token("bob")
    assert (await app.api("GET", "/user", alice)).json()["login"] == "alice"
    names = [one["full_name"] for one in (await app.api("GET", "/user/repos", alice)).json()]
    assert names == ["alice/garden", "alice/diary"]
    assert (await app.api("GET", "/repos/alice/diary", alice)).json()["private"] is True
    hidden = await app.api("GET", "/repos/alice/diary", bob)
    assert (hidden.status_code, hidden.json()["message"]) == (404, "Not Found")
    assert (await app.api("GET", "/repos/alice/garden", bob)).json()["permissions"]["admin"] is False
    assert (await app.api("GET", "/rate_limit", bob)).json()["rate"]["limit"] == 5000


async def test_an_issue_is_opened_commented_and_closed(app: App) -> None:
    bob, issues = await app.token("bob"), "/repos/alice/garden/issues"
    opened = await app.api("POST", issues, bob, json={"title": "Hedge", "body": "Too tall"})
    assert (opened.status_code, opened.json()["number"], opened.json()["user"]["login"]) == (201, 6, "bob")
    assert opened.json()["url"] == f"{app.base}/api{issues}/6"
    said = await app.api("POST", f"{issues}/6/comments", bob, json={"body": "Cut it"})
    assert said.status_code == 201
    assert [one["body"] for one in (await app.api("GET", f"{issues}/6/comments", bob)).json()] == ["Cut it"]
    closed = await app.api("PATCH", f"{issues}/6", bob, json={"state": "closed"})
    assert closed.json()["state"] == "closed"
    assert (await app.api("GET", f"{issues}/6", bob)).json()["comments"] == 1
    assert 6 not in [one["number"] for one in (await app.api("GET", issues, bob)).json()]
    assert 6 in [one["number"] for one in (await app.api("GET", issues, bob, state="all")).json()]
    assert [post["text"] for post in app.simulator.books()["posts"]] == ["Hedge", "Cut it"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/repos/alice/garden/issues", {}, 422),
        ("PATCH", "/repos/alice/garden/issues/1", {"state": "lost"}, 422),
        ("POST", "/repos/alice/garden/issues/1/comments", {}, 422),
        ("GET", "/repos/alice/garden/issues/99", None, 404),
        ("GET", "/repos/alice/nothing/issues", None, 404),
        ("GET", "/repos/alice/garden/issues?per_page=x", None, 422),
        ("GET", "/repos/alice/garden/stargazers", None, 404),
    ],
)
async def test_what_is_wrong_or_missing_is_refused(app: App, method: str, path: str, body: object, status: int) -> None:
    answer = await app.api(method, path, await app.token("alice"), json=body)
    assert answer.status_code == status


async def test_pages_are_linked_in_both_directions(app: App) -> None:
    token, path = await app.token("alice"), "/repos/alice/garden/issues"
    first = await app.api("GET", path, token, per_page="2")
    assert [one["number"] for one in first.json()] == [5, 4]
    assert 'rel="next"' in first.headers["link"]
    assert 'rel="prev"' not in first.headers["link"]
    last = await app.api("GET", path, token, per_page="2", page="3")
    assert [one["number"] for one in last.json()] == [1]
    assert 'rel="prev"' in last.headers["link"]
    assert 'rel="next"' not in last.headers["link"]
    assert "link" not in (await app.api("GET", path, token)).headers
