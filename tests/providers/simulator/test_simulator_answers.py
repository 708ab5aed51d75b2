"""What the simulator's Google and GitHub answer agrees with the services' own published descriptions.

Unknown members are refused, types and formats are correct, and required members exist. So an SDK or a tool that works
with the simulator reads members that really exist.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

import httpx2
import pytest
import pytest_asyncio

from providers.simulator import Simulator, consent
from providers.simulator.app import GOOGLE_APIS
from providers.simulator.google.caller import Method
from providers.simulator.state import drives
from tests.generating import github
from tests.support.foreign import official
from tests.support.services import running_services
from tests.support.simulator_apps import CLIENT, REDIRECT, GoogleApp, parameters

AUTH = "https://www.googleapis.com/auth/"
SCOPES = f"{AUTH}calendar {AUTH}drive {AUTH}gmail.modify"
PRIMARY = "/calendar/v3/calendars/primary/events"
EVENT = {
    "summary": "Planting",
    "location": "Garden",
    "start": {"dateTime": "2026-12-01T09:00:00+01:00"},
    "end": {"dateTime": "2026-12-01T10:00:00+01:00"},
    "attendees": [{"email": "bob@example.com"}],
}
WHOLE_DAY = {"summary": "Market", "start": {"date": "2026-12-02"}, "end": {"date": "2026-12-03"}}
WEEK = {"timeMin": "2026-11-01T00:00:00Z", "timeMax": "2026-12-31T00:00:00Z"}


@pytest_asyncio.fixture
async def simulator() -> AsyncGenerator[Simulator]:
    async with running_services() as running:
        yield running


@pytest_asyncio.fixture
async def http() -> AsyncGenerator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        yield client


# Google


@dataclass(frozen=True)
class SimulatorCall:
    """A call of one method; its path names objects that `place` made."""

    json: object = None
    query: Mapping[str, str] | None = None
    file: str = drives.DOC


FILES = (drives.DOC, drives.SHEET, drives.NOTES, drives.BIG, drives.FOLDER, drives.SHORTCUT)
RAW = base64.urlsafe_b64encode(b"To: bob@example.com\r\nSubject: Lunch\r\n\r\nAt one?\r\n").decode()
CALLS: Mapping[str, tuple[SimulatorCall, ...]] = {
    "calendar.calendarList.list": (SimulatorCall(), SimulatorCall(query={"maxResults": "1"})),
    "calendar.calendarList.get": (SimulatorCall(),),
    "calendar.freebusy.query": (SimulatorCall({**WEEK, "items": [{"id": "primary"}, {"id": "nobody@example.com"}]}),),
    "calendar.calendars.get": (SimulatorCall(),),
    "calendar.events.list": (
        SimulatorCall(),
        SimulatorCall(query={"singleEvents": "true", "orderBy": "startTime", **WEEK}),
        SimulatorCall(query={"maxResults": "1"}),
        SimulatorCall(query={"showDeleted": "true"}),
    ),
    "calendar.events.insert": (SimulatorCall(EVENT), SimulatorCall(WHOLE_DAY)),
    "calendar.events.get": (SimulatorCall(),),
    "calendar.events.patch": (SimulatorCall({"summary": "Moved"}), SimulatorCall(WHOLE_DAY)),
    "calendar.events.delete": (SimulatorCall(),),
    "gmail.users.messages.list": (
        SimulatorCall(),
        SimulatorCall(query={"maxResults": "1"}),
        SimulatorCall(query={"q": "no such words"}),
    ),
    "gmail.users.messages.get": tuple(
        SimulatorCall(query={"format": form}) for form in ("full", "metadata", "minimal")
    ),
    "gmail.users.messages.send": (SimulatorCall({"raw": RAW}),),
    "gmail.users.drafts.create": (SimulatorCall({"message": {"raw": RAW}}),),
    "drive.files.list": (
        SimulatorCall(),
        SimulatorCall(query={"pageSize": "1"}),
        SimulatorCall(query={"fields": "nextPageToken,files(*)"}),
    ),
    "drive.files.get": tuple(
        SimulatorCall(file=file, query=query) for file in FILES for query in (None, {"fields": "*"})
    ),
    "drive.files.export": (SimulatorCall(query={"mimeType": "text/plain"}),),
}


def id_of(method: Method) -> str:
    """The ID `calendar.events.list` for `Events.List`, as the discovery documents name methods."""
    return f"{method.api}.{'users.' if method.api == 'gmail' else ''}{method.fault_name}"


@dataclass(frozen=True)
class Office:
    """An app at the Google face that alice allowed, and her own event and mail."""

    base: str
    http: httpx2.AsyncClient
    event: str
    mail: str

    async def ask(self, verb: str, path: str, asked: SimulatorCall) -> httpx2.Response:
        named = {"calendarId": "primary", "eventId": self.event, "userId": "me", "id": self.mail, "fileId": asked.file}
        for name, value in named.items():
            path = path.replace(f"{{{name}}}", value)
        return await self.http.request(verb, f"{self.base}{path}", json=asked.json, params=asked.query)


@pytest_asyncio.fixture
async def office(simulator: Simulator, http: httpx2.AsyncClient) -> Office:
    token = (await GoogleApp(simulator, http).connect(scope=SCOPES))["access_token"]
    http.headers["authorization"] = f"Bearer {token}"
    base = f"{simulator.url}/google"
    event = (await http.post(f"{base}{PRIMARY}", json=EVENT)).json()["id"]
    mails = (await http.get(f"{base}/gmail/v1/users/me/messages")).json()["messages"]
    return Office(base, http, event, mails[-1]["id"])  # the oldest one has an attachment


def test_every_google_method_of_the_simulator_is_asked() -> None:
    assert {id_of(method) for _, _, method in GOOGLE_APIS} == set(CALLS)


@pytest.mark.parametrize("name", sorted(CALLS))
async def test_a_google_method_answers_as_its_discovery_document_says(office: Office, name: str) -> None:
    document = {"calendar": "calendar.v3", "drive": "drive.v3", "gmail": "gmail.v1"}[name.partition(".")[0]]
    verb, path, schema = official.of_google(document)[name]
    for asked in CALLS[name]:
        answer = await office.ask(verb, path, asked)
        assert answer.is_success, answer.text
        if schema is None:
            assert answer.headers.get("content-type") != "application/json"
        else:
            assert official.problems(schema, answer.json()) == [], asked


# GitHub


ISSUES = "/repos/alice/garden/issues"
OPERATIONS: Mapping[str, tuple[tuple[str, object], ...]] = {
    "GET /user": (("/user", None),),
    "GET /user/repos": (("/user/repos", None),),
    "GET /rate_limit": (("/rate_limit", None),),
    "GET /search/issues": (("/search/issues?q=repo:alice/garden+roses", None), ("/search/issues?q=", None)),
    "GET /repos/{owner}/{repo}": (
        ("/repos/alice/garden", None),
        ("/repos/alice/diary", None),
        ("/repos/alice/lost", None),
    ),
    "GET /repos/{owner}/{repo}/pulls": (("/repos/alice/garden/pulls", None),),
    "GET /repos/{owner}/{repo}/pulls/{pull_number}": (
        ("/repos/alice/garden/pulls/101", None),
        ("/repos/alice/garden/pulls/102", None),
    ),
    "GET /repos/{owner}/{repo}/contents/{path}": (
        ("/repos/alice/garden/contents/docs/beds.md", None),
        ("/repos/alice/garden/contents/lost.md", None),
    ),
    "GET /repos/{owner}/{repo}/issues": ((f"{ISSUES}?state=all", None), ("/repos/alice/lost/issues", None)),
    "POST /repos/{owner}/{repo}/issues": ((ISSUES, {"title": "Hedge", "body": "Too tall"}), (ISSUES, {})),
    "GET /repos/{owner}/{repo}/issues/{issue_number}": ((f"{ISSUES}/1", None), (f"{ISSUES}/99", None)),
    "PATCH /repos/{owner}/{repo}/issues/{issue_number}": (
        (f"{ISSUES}/1", {"state": "closed"}),
        (f"{ISSUES}/1", {"state": "lost"}),
    ),
    "GET /repos/{owner}/{repo}/issues/{issue_number}/comments": (
        (f"{ISSUES}/2/comments", None),
        ("/repos/alice/garden/issues/101/comments", None),
    ),
    "POST /repos/{owner}/{repo}/issues/{issue_number}/comments": (
        (f"{ISSUES}/2/comments", {"body": "Cut it"}),
        (f"{ISSUES}/2/comments", {}),
    ),
}
SCOPED = "POST /applications/{client_id}/token/scoped"


@dataclass(frozen=True)
class Hub:
    """An app at the GitHub face that alice allowed."""

    base: str
    token: str
    http: httpx2.AsyncClient

    async def ask(self, verb: str, path: str, json: object) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.token}"}
        return await self.http.request(verb, f"{self.base}/api{path}", json=json, headers=headers)


@pytest_asyncio.fixture
async def hub(simulator: Simulator, http: httpx2.AsyncClient) -> Hub:
    base = f"{simulator.url}/families/github"
    query = {"client_id": CLIENT[0], "redirect_uri": REDIRECT, "state": "st", "response_type": "code"}
    back = await consent(str(httpx2.URL(f"{base}/authorize", params=query)), account="alice")
    form = {"grant_type": "authorization_code", "code": parameters(back)["code"], "redirect_uri": REDIRECT}
    secret = {"client_id": CLIENT[0], "client_secret": CLIENT[1]}
    answer = await http.post(f"{base}/token", data=form | secret, headers={"accept": "application/json"})
    return Hub(base, answer.json()["access_token"], http)


def answer_problems(operation: str, answer: httpx2.Response) -> list[str]:
    """What is wrong with an answer; a status that isn't in the document is wrong, too."""
    schemas = official.of_github()[operation]
    if str(answer.status_code) not in schemas:
        return [f"status {answer.status_code} is not described: {answer.text[:200]}"]
    return official.problems(schemas[str(answer.status_code)], answer.json())


def test_every_github_operation_that_is_written_down_is_asked() -> None:
    assert {*OPERATIONS, SCOPED} == set(github.SERVED)


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
async def test_a_github_operation_answers_as_the_openapi_document_says(hub: Hub, operation: str) -> None:
    await hub.ask("POST", f"{ISSUES}/2/comments", {"body": "Soon."})
    await hub.ask("POST", f"{ISSUES}/101/comments", {"body": "Nice."})
    verb = operation.split()[0]
    for path, json in OPERATIONS[operation]:
        answer = await hub.ask(verb, path, json)
        assert answer_problems(operation, answer) == [], path
    if len(OPERATIONS[operation]) > 1 and "lost" in OPERATIONS[operation][-1][0]:
        assert answer.status_code == 404


@pytest.mark.parametrize("repositories", [["garden"], None])
async def test_a_scoped_token_is_answered_as_the_openapi_document_says(
    hub: Hub, repositories: list[str] | None
) -> None:
    body = {"access_token": hub.token, "target": "alice", "permissions": {"issues": "read"}}
    more = {} if repositories is None else {"repositories": repositories}
    url = f"{hub.base}/api/applications/{CLIENT[0]}/token/scoped"
    answer = await hub.http.post(url, json=body | more, auth=CLIENT)
    assert answer.status_code == 200, answer.text
    assert answer_problems(SCOPED, answer) == []
    refused = await hub.http.post(url, json=body | {"access_token": "lost"}, auth=CLIENT)
    assert refused.status_code == 404
    assert answer_problems(SCOPED, refused) == []


# The measure itself


async def test_a_member_that_is_unknown_missing_or_of_another_type_is_noticed(hub: Hub) -> None:
    good = (await hub.ask("GET", f"{ISSUES}/1", None)).json()
    schema = official.of_github()["GET /repos/{owner}/{repo}/issues/{issue_number}"]["200"]
    assert official.problems(schema, good) == []
    for wrong in (
        {**good, "urgency": "high"},
        {name: value for name, value in good.items() if name != "labels_url"},
        {**good, "number": "1"},
        {**good, "url": "not an address"},
        {**good, "created_at": "yesterday"},
        {**good, "user": {**good["user"], "id": "one"}},
        {**good, "state_reason": "bored"},
    ):
        assert len(official.problems(schema, wrong)) >= 1, wrong


def test_a_member_that_google_does_not_have_or_has_otherwise_is_noticed() -> None:
    _, _, schema = official.of_google("calendar.v3")["calendar.events.list"]
    assert schema is not None
    event = {"id": "e", "start": {"dateTime": "2026-12-01T09:00:00+01:00"}, "sequence": 1}
    assert official.problems(schema, {"kind": "calendar#events", "items": [event]}) == []
    for wrong in (
        {"kind": "calendar#events", "events": []},
        {"items": [{**event, "sequence": "1"}]},
        {"items": [{**event, "start": {"dateTime": "2026-12-01T09:00:00"}}]},
        {"items": [{**event, "end": {"date": "1.12.2026"}}]},
        {"items": event},
    ):
        assert len(official.problems(schema, wrong)) == 1, wrong


@pytest.mark.parametrize("document", ["calendar.v3", "drive.v3", "gmail.v1"])
def test_every_schema_of_google_s_documents_can_be_read(document: str) -> None:
    methods = official.of_google(document)
    assert len(methods) > 30
    for name, (_, path, schema) in methods.items():
        assert re.match(r"/(calendar|drive|gmail)/v[13]/", path), name
        if schema is not None:
            assert official.problems(schema, {"no such member": 1}) != [], name
