"""Google's own Python client, unmodified, at the vault: each API that a tool uses, and both ways to transfer files.

The client gets only a base URL and a handle, as the example page says.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from email.message import EmailMessage
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from google.oauth2.credentials import Credentials
from google_auth_httplib2 import AuthorizedHttp
from googleapiclient.discovery import build
from googleapiclient.errors import HttpError
from googleapiclient.http import MediaInMemoryUpload, MediaIoBaseDownload, build_http

from tests.support.doubles.scripted_server import Arrival, Reply, json_reply
from tests.support.harness import free_socket
from tests.support.network.tls import Authority, make_authority, tls_proxy
from tests.support.rooms.mcp_room import Room
from tests.support.rooms.mcp_room import room as open_room
from tests.support.rooms.proxy_room import HOUR, ProxyHandle, ProxyRoom, issue, proxy_room

AUTH = "https://www.googleapis.com/auth/"
MAIL = frozenset({f"{AUTH}gmail.readonly", f"{AUTH}gmail.send", f"{AUTH}gmail.compose"})
FILES = frozenset({f"{AUTH}drive.readonly"})
WRITING = frozenset({f"{AUTH}drive.file"})
EVENTS = frozenset({f"{AUTH}calendar.events", f"{AUTH}calendar.calendarlist.readonly", f"{AUTH}calendar.freebusy"})


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with open_room(tmp_path_factory.mktemp("google")) as opened:
        yield opened


async def handle_for(place: Room, scopes: frozenset[str]) -> ProxyHandle:
    agent = await place.agent()
    connection = await place.connect(agent, "google", scopes=scopes)
    return await issue(place, agent, connection, scopes=scopes, lifetime=HOUR)


def service(name: str, version: str, handle: ProxyHandle, base: str | None = None) -> object:
    return build(
        name,
        version,
        credentials=Credentials(token=handle.value),
        client_options={"api_endpoint": base or handle.base(name)},
    )


def letter(subject: str) -> str:
    message = EmailMessage()
    message["To"], message["Subject"] = "bob@example.com", subject
    message.set_content("At one?")
    return base64.urlsafe_b64encode(bytes(message)).decode()


@pytest.mark.parametrize("end", ["", "/"])
async def test_gmail_lists_reads_drafts_and_sends(place: Room, end: str) -> None:
    handle = await handle_for(place, MAIL)

    def use() -> tuple[object, object, object]:
        with service("gmail", "v1", handle, handle.base("gmail") + end) as gmail:
            users = gmail.users()
            found = users.messages().list(userId="me", q="Lunch").execute()["messages"]
            read = users.messages().get(userId="me", id=found[0]["id"], format="full").execute()
            draft = users.drafts().create(userId="me", body={"message": {"raw": letter("Draft")}}).execute()
            sent = users.messages().send(userId="me", body={"raw": letter("Sent")}).execute()
        return read["snippet"], draft["id"], sent["id"]

    snippet, draft, sent = await asyncio.to_thread(use)
    assert "Shall we eat at one?" in str(snippet)
    assert draft
    assert sent
    assert [post["text"] for post in place.simulator.books()["posts"]][-2:] == ["Draft", "Sent"]


async def test_calendar_lists_makes_changes_and_deletes(place: Room) -> None:
    handle = await handle_for(place, EVENTS)
    when = {"start": {"dateTime": "2030-05-02T10:00:00Z"}, "end": {"dateTime": "2030-05-02T11:00:00Z"}}

    def use() -> tuple[object, object, object]:
        times = {"timeMin": "2030-05-02T00:00:00Z", "timeMax": "2030-05-03T00:00:00Z", "items": [{"id": "primary"}]}
        with service("calendar", "v3", handle) as calendar:
            names = [one["id"] for one in calendar.calendarList().list().execute()["items"]]
            events = calendar.events()
            made = events.insert(calendarId="primary", body={"summary": "Dig", **when}).execute()
            events.patch(calendarId="primary", eventId=made["id"], body={"summary": "Sow"}).execute()
            seen = events.get(calendarId="primary", eventId=made["id"]).execute()["summary"]
            busy = calendar.freebusy().query(body=times).execute()["calendars"]["primary"]["busy"]
            events.delete(calendarId="primary", eventId=made["id"]).execute()
        return names, seen, busy

    names, seen, busy = await asyncio.to_thread(use)
    assert names
    assert seen == "Sow"
    assert busy


async def test_drive_lists_downloads_and_exports(place: Room) -> None:
    handle = await handle_for(place, FILES)

    def use() -> tuple[set[str], bytes, bytes]:
        notes = io.BytesIO()
        with service("drive", "v3", handle) as drive:
            files = drive.files()
            found = {one["name"]: one["id"] for one in files.list(fields="files(id,name)").execute()["files"]}
            name = next(name for name in found if name.endswith("notes.md"))
            download = MediaIoBaseDownload(notes, files.get_media(fileId=found[name]))
            while not download.next_chunk()[1]:
                pass
            text = files.export(fileId=found["Team handbook"], mimeType="text/plain").execute()
        return set(found), notes.getvalue(), text

    names, notes, text = await asyncio.to_thread(use)
    assert {"Team handbook", "Budget"} <= names
    assert b"# Notes" in notes
    assert b"Be kind." in text


async def test_a_path_of_another_api_is_judged_as_that_apis(place: Room) -> None:
    """However the base URL is joined, the rules of the intended API decide."""
    handle = await handle_for(place, MAIL)

    def use() -> int:
        with (
            service("drive", "v3", handle, f"{handle.base('gmail')}/drive/v3") as drive,
            pytest.raises(HttpError) as refused,
        ):
            drive.files().list().execute()
        return refused.value.status_code

    assert await asyncio.to_thread(use) == 403
    for path in ("/gmail/v2/users/me/messages", "/gmail/v1", "/gmail/v1x/users/me/messages", "/Gmail/v1/users/me"):
        answer = await handle.call("GET", path, api="gmail")
        assert (answer.status_code, answer.headers["token-vault-refusal"]) == (403, "call_not_allowed")
    answer = await handle.call("GET", "/gmail/v1/users/me/messages", api="gmail")
    assert answer.status_code == 200


# Files


@dataclass
class GoogleUploads:
    """Google's upload protocol, as far as needed: developers.google.com/workspace/drive/api/guides/manage-uploads."""

    sessions: dict[str, bytearray] = field(default_factory=dict)
    done: list[bytes] = field(default_factory=list)
    url: str = ""

    def __call__(self, arrival: Arrival) -> Reply:
        query, made = arrival.query, {"id": "1new", "kind": "drive#file"}
        if arrival.method == "PUT":
            return self._piece(arrival, query.get("upload_id", ""))
        match query.get("uploadType"):
            case "media" | "multipart":
                self.done.append(arrival.body)
                return json_reply(made)
            case "resumable":
                name = f"ABPnzm-canary-{len(self.sessions)}"
                self.sessions[name] = bytearray()
                where = f"{self.url}{arrival.path}?uploadType=resumable&upload_id={name}"
                return Reply(200, headers={"Location": where, "X-GUploader-UploadID": name, "X-Told": f"see {name}"})
            case _:
                return json_reply({"error": {"code": 400, "message": "no upload"}}, status=400)

    def _piece(self, arrival: Arrival, name: str) -> Reply:
        if name not in self.sessions:
            return json_reply({"error": {"code": 404, "message": "no session"}}, status=404)
        content = self.sessions[name]
        content += arrival.body
        said, _, total = arrival.headers["content-range"].removeprefix("bytes ").partition("/")
        if total == "*" or len(content) < int(total):
            return Reply(308, headers={"Range": f"bytes=0-{len(content) - 1}"})
        assert said.startswith(str(len(content) - len(arrival.body)))
        self.done.append(bytes(content))
        return json_reply({"id": "1new", "kind": "drive#file"})


@dataclass
class Files:
    """A vault behind TLS, and Google's uploads behind it."""

    room: ProxyRoom
    authority: Authority
    google: GoogleUploads

    async def handle(self, scopes: frozenset[str] = WRITING, **more: object) -> ProxyHandle:
        agent = await self.room.agent()
        connection = await self.room.account(agent, provider="google", name="g1", scopes=scopes, **more)
        return await self.room.handle(agent, connection, scopes=scopes)

    def service(self, name: str, version: str, handle: ProxyHandle) -> object:
        http = build_http()
        http.ca_certs = str(self.authority.authority)
        http.proxy_info = None
        return build(
            name,
            version,
            http=AuthorizedHttp(Credentials(token=handle.value), http=http),
            client_options={"api_endpoint": handle.base(name)},
        )


@pytest.fixture(scope="module")
async def uploads(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Files]:
    folder = tmp_path_factory.mktemp("uploads")
    authority = make_authority(folder, "localhost")
    with free_socket() as outside:
        public = {"public_url": f"https://localhost:{outside.getsockname()[1]}"}
        async with (
            proxy_room(folder / "data", server=public) as room,
            tls_proxy(outside, authority, backend=room.vault.settings.server.port),
        ):
            yield Files(room, authority, GoogleUploads())


@pytest.fixture
def files(uploads: Files) -> Files:
    uploads.room.provider.arrivals.clear()
    uploads.google = GoogleUploads(url=uploads.room.provider.url)
    uploads.room.provider.answer = uploads.google
    return uploads


UPLOADS: tuple[tuple[str, str, frozenset[str], Callable[[object, object], object]], ...] = (
    ("drive", "v3", WRITING, lambda api, media: api.files().create(body={"name": "x"}, media_body=media)),
    ("drive", "v3", WRITING, lambda api, media: api.files().update(fileId="1abc", media_body=media)),
    (
        *("gmail", "v1", MAIL),
        lambda api, media: api.users().messages().send(userId="me", body={}, media_body=media),
    ),
    ("gmail", "v1", MAIL, lambda api, media: api.users().drafts().create(userId="me", body={}, media_body=media)),
    (
        *("youtube", "v3", frozenset({f"{AUTH}youtube"})),
        lambda api, media: api.videos().insert(part="snippet", body={}, media_body=media),
    ),
    (
        *("bigquery", "v2", frozenset({f"{AUTH}bigquery"})),
        lambda api, media: api.jobs().insert(projectId="dig", body={}, media_body=media),
    ),
    (
        *("chat", "v1", frozenset({f"{AUTH}chat.messages"})),
        lambda api, media: api.media().upload(parent="spaces/1abc", body={"filename": "x"}, media_body=media),
    ),
)


@pytest.mark.parametrize(("name", "version", "scopes", "call"), UPLOADS)
@pytest.mark.parametrize("resumable", [False, True])
async def test_files_go_up_in_one_request_and_in_pieces(
    files: Files, name: str, version: str, scopes: frozenset[str], call: Callable, *, resumable: bool
) -> None:
    handle = await files.handle(scopes)
    content = (bytes(range(32, 96)) * 4 if name == "gmail" else bytes(range(256))) * 2600  # three pieces of 256 KiB

    kind = "message/rfc822" if name == "gmail" else "application/octet-stream"

    def use() -> object:
        media = MediaInMemoryUpload(content, kind, chunksize=2**18, resumable=resumable)
        with files.service(name, version, handle) as api:
            return call(api, media).execute()

    assert (await asyncio.to_thread(use))["id"] == "1new"
    (done,) = files.google.done
    assert done == content if resumable else content in done
    arrivals = files.room.provider.arrivals
    assert [one.method for one in arrivals[1:]] == (["PUT"] * 3 if resumable else [])
    assert all(f"/google-{name}_upload/" in one.target for one in arrivals)
    assert handle.value not in files.room.provider.log


SHEET = {"spreadsheetId": "1abc", "range": "Sheet 1!A1:B2"}
OTHERS: tuple[tuple[str, str, str, Callable, Callable, list[str]], ...] = (
    (
        *("docs", "v1", "documents"),
        lambda api: api.documents().get(documentId="1abc"),
        lambda api: api.documents().batchUpdate(documentId="1abc", body={"requests": []}),
        ["GET /v1/documents/1abc", "POST /v1/documents/1abc:batchUpdate"],
    ),
    (
        *("sheets", "v4", "spreadsheets"),
        lambda api: api.spreadsheets().values().get(**SHEET),
        lambda api: api.spreadsheets().values().append(**SHEET, valueInputOption="RAW", body={"values": [["x"]]}),
        [f"{one} /v4/spreadsheets/1abc/values/Sheet%201%21A1%3AB2" for one in ("GET", "POST")],
    ),
    (
        *("tasks", "v1", "tasks"),
        lambda api: api.tasks().list(tasklist="@default"),
        lambda api: api.tasks().insert(tasklist="@default", body={"title": "Dig"}),
        ["GET /lists/%40default/tasks", "POST /lists/%40default/tasks"],
    ),
    (
        *("people", "v1", "contacts"),
        lambda api: api.people().connections().list(resourceName="people/me", personFields="names"),
        lambda api: api.people().updateContact(
            resourceName="people/c1", updatePersonFields="names", body={"names": []}
        ),
        ["GET /v1/people/me/connections?", "PATCH /v1/people/c1:updateContact?"],
    ),
    (
        *("chat", "v1", "chat.messages"),
        lambda api: api.spaces().messages().list(parent="spaces/1abc"),
        lambda api: api.spaces().messages().create(parent="spaces/1abc", body={"text": "Dig"}),
        [f"{one} /v1/spaces/1abc/messages?" for one in ("GET", "POST")],
    ),
    (
        *("youtube", "v3", "youtube"),
        lambda api: api.playlists().list(part="snippet", mine=True),
        lambda api: api.playlists().insert(part="snippet", body={"snippet": {"title": "Dig"}}),
        [f"{one} /playlists?" for one in ("GET", "POST")],
    ),
)


@pytest.mark.parametrize(("name", "version", "scope", "read", "write", "arrived"), OTHERS)
async def test_the_other_apis_work_as_far_as_the_scope_reaches(
    files: Files, name: str, version: str, scope: str, read: Callable, write: Callable, arrived: list[str]
) -> None:
    files.room.provider.answer = lambda _: json_reply({"kind": "here"})
    reader = await files.handle(frozenset({f"{AUTH}{scope}.readonly"}))
    writer = await files.handle(frozenset({f"{AUTH}{scope}"}))

    def use() -> int:
        with files.service(name, version, reader) as api:
            assert read(api).execute() == {"kind": "here"}
            with pytest.raises(HttpError) as refused:
                write(api).execute()
        with files.service(name, version, writer) as api:
            assert write(api).execute() == {"kind": "here"}
        return refused.value.status_code

    assert await asyncio.to_thread(use) == 403
    found = [f"{one.method} {one.target.partition(f'/google-{name}')[2]}" for one in files.room.provider.arrivals]
    assert [one.startswith(start) for one, start in zip(found, arrived, strict=True)] == [True, True], found


WITH_ONE_SCOPE: tuple[tuple[str, str, str, Callable, str], ...] = (
    (
        *("analyticsdata", "v1beta", "analytics.readonly"),
        lambda api: api.properties().runReport(property="properties/1", body={"limit": "9"}),
        "POST /v1beta/properties/1:runReport?",
    ),
    (
        *("analyticsadmin", "v1beta", "analytics.readonly"),
        lambda api: api.accountSummaries().list(),
        "GET /v1beta/accountSummaries?",
    ),
    (
        *("bigquery", "v2", "bigquery"),
        lambda api: api.jobs().query(projectId="dig", body={"query": "select 1"}),
        "POST /projects/dig/queries?",
    ),
    (
        *("chat", "v1", "chat.spaces.readonly"),
        lambda api: api.spaces().list(),
        "GET /v1/spaces?",
    ),
)


@pytest.mark.parametrize(("name", "version", "scope", "call", "arrived"), WITH_ONE_SCOPE)
async def test_an_api_with_one_scope_is_called_with_that_scope(
    files: Files, name: str, version: str, scope: str, call: Callable, arrived: str
) -> None:
    files.room.provider.answer = lambda _: json_reply({"kind": "here"})
    other, holder = [await files.handle(frozenset({AUTH + one})) for one in ("tasks.readonly", scope)]

    def use() -> int:
        with files.service(name, version, other) as api, pytest.raises(HttpError) as refused:
            call(api).execute()
        with files.service(name, version, holder) as api:
            assert call(api).execute() == {"kind": "here"}
        return refused.value.status_code

    assert await asyncio.to_thread(use) == 403
    (found,) = files.room.provider.arrivals
    assert f"{found.method} {found.target.partition(f'/google-{name}')[2]}".startswith(arrived), found.target


async def test_an_attachment_of_a_chat_is_downloaded(files: Files) -> None:
    files.room.provider.answer = lambda _: Reply(200, body=b"a map")
    reader = await files.handle(frozenset({f"{AUTH}chat.messages.readonly"}))

    def use() -> bytes:
        with files.service("chat", "v1", reader) as api:
            return api.media().download_media(resourceName="spaces/1/messages/2/attachments/3").execute()

    assert await asyncio.to_thread(use) == b"a map"
    assert "/google-chat/v1/media/spaces/1/messages/2/attachments/3?" in files.room.provider.arrivals[0].target


async def test_answers_with_a_key_stay_out(files: Files) -> None:
    """Whoever has the key of a live stream can send to it without the account."""
    files.room.provider.answer = lambda _: json_reply({"kind": "here"})
    handle = await files.handle(frozenset({f"{AUTH}youtube"}))

    def use() -> int:
        with files.service("youtube", "v3", handle) as api:
            assert api.liveBroadcasts().list(part="id").execute() == {"kind": "here"}
            with pytest.raises(HttpError) as refused:
                api.liveStreams().list(part="cdn").execute()
        return refused.value.status_code

    assert await asyncio.to_thread(use) == 403
    assert ["liveStreams" in one.target for one in files.room.provider.arrivals] == [False]


async def test_ads_takes_its_scope_and_the_developer_token_of_the_caller(files: Files) -> None:
    """Google's client for Ads speaks only gRPC, so this is a plain request."""
    files.room.provider.answer = lambda _: json_reply({"results": []})
    other, holder = [await files.handle(frozenset({AUTH + one})) for one in ("tasks.readonly", "adwords")]
    headers = {"developer-token": "ours", "login-customer-id": "12"}
    search = {"api": "ads", "headers": headers, "json": {"query": "SELECT campaign.id FROM campaign"}, "verify": False}
    path = "/v26/customers/34/googleAds:search"
    refused = await other.call("POST", path, **search)
    assert (refused.status_code, refused.headers["token-vault-refusal"]) == (403, "scope_missing")
    assert (await holder.call("POST", path, **search)).status_code == 200
    (found,) = files.room.provider.arrivals
    assert found.target.endswith(f"/google-ads{path}")
    assert {name: found.headers[name] for name in headers} == headers


async def start(handle: ProxyHandle, path: str = "/files") -> str:
    answer = await handle.call(
        "POST", f"{path}?uploadType=resumable", api="drive_upload", json={"name": "x"}, verify=False
    )
    assert answer.status_code == 200, answer.text
    return answer.headers["location"]


async def put(handle: ProxyHandle, location: str, **headers: str) -> tuple[int, str]:
    below = location.removeprefix(handle.base("drive_upload"))
    sent = {"content-range": "bytes 0-2/3", **headers}
    answer = await handle.call("PUT", below, api="drive_upload", headers=sent, content=b"abc", verify=False)
    return answer.status_code, answer.headers.get("token-vault-refusal", "")


async def test_a_session_is_sealed_for_one_agent_account_and_file(files: Files) -> None:
    handle = await files.handle()
    location = await start(handle)
    assert location.startswith(handle.base("drive_upload") + "/files?uploadType=resumable&upload_id=")
    real = next(iter(files.google.sessions))
    assert real not in location
    other_agent = await files.handle()
    assert await put(other_agent, location.replace(handle.connection.id, other_agent.connection.id)) == (
        404,
        "unknown_target",
    )
    other_account = await files.room.account(handle.agent, provider="google", name="g2", scopes=WRITING)
    elsewhere = await files.room.handle(handle.agent, other_account, scopes=WRITING)
    assert await put(elsewhere, location.replace(handle.connection.id, other_account.id)) == (404, "unknown_target")
    sealed = parse_qs(urlsplit(location).query)["upload_id"][0]
    for changed in (
        f"/files?uploadType=resumable&upload_id={real}",
        f"/files?uploadType=resumable&upload%5Fid={real}",
        f"/files?uploadType=resumable&UPLOAD_ID={real}",
        f"/files?uploadType=resumable&upload_id={sealed}&upload_id={real}",
        f"/files/1abc?uploadType=resumable&upload_id={sealed}",
        f"/files?uploadType=resumable&upload_id={sealed[:-4]}AAAA",
    ):
        assert await put(handle, handle.base("drive_upload") + changed) == (404, "unknown_target"), changed
    assert not files.google.done
    assert await put(handle, location) == (200, "")
    assert files.google.done == [b"abc"]


async def test_a_session_ends_with_the_agents_permission(files: Files) -> None:
    handle = await files.handle()
    location = await start(handle)
    await files.room.allow(handle.agent, handle.connection, frozenset())
    status, code = await put(handle, location)
    assert (status, bool(code), files.google.done) == (403, True, [])


async def test_the_sessions_name_is_masked_wherever_google_repeats_it(files: Files) -> None:
    handle = await files.handle()
    answer = await handle.call("POST", "/files?uploadType=resumable", api="drive_upload", json={}, verify=False)
    assert "canary" not in json.dumps(dict(answer.headers))
    assert answer.headers["x-told"].startswith("see ***")


async def test_a_file_at_the_origin_needs_a_handle_of_a_provider_that_takes_them_there(files: Files) -> None:
    google, slack = await files.handle(), await files.room.ready()
    for handle, path, expected in (
        (google, "/upload/drive/v3/files?uploadType=media", (200, "")),
        (google, "/upload/drive/v2/files?uploadType=media", (404, "unknown_target")),
        (google, "/upload/calendar/v3/calendars?uploadType=media", (404, "unknown_target")),
        (google, "/upload/drive/v3/files/..%2f..%2fx", (400, "ambiguous_path")),
        (slack, "/upload/drive/v3/files?uploadType=media", (404, "unknown_target")),
    ):
        url = f"{files.room.url}{path}"
        answer = await call_at(url, handle.value)
        assert (answer.status_code, answer.headers.get("token-vault-refusal", "")) == expected, path
    assert (await call_at(f"{files.room.url}/upload/drive/v3/files", "tvp_nobody")).status_code == 401


async def call_at(url: str, token: str) -> httpx2.Response:
    async with httpx2.AsyncClient(verify=False, trust_env=False, timeout=30) as http:
        return await http.post(url, content=b"abc", headers={"authorization": f"Bearer {token}"})
