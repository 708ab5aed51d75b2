"""What each Drive v3 method of the Google face does, and its scopes, any one of which is enough.

The accepted scopes are those of Google's discovery document, without partial views (files of one app).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from providers.simulator.google.caller import GoogleCaller, GoogleRefused, Method, partial_answer
from providers.simulator.google.oauth import API
from providers.simulator.state.drives import SimulatedFile

_CONTENT = frozenset({f"{API}drive", f"{API}drive.readonly"})
_READ = _CONTENT | {f"{API}drive.metadata", f"{API}drive.metadata.readonly"}
_DEFAULT = "kind,id,name,mimeType"
_EXPORTS = {"document": {"text/plain", "text/html", "application/pdf"}, "spreadsheet": {"text/csv", "application/pdf"}}
_CONDITION = re.compile(
    r"(?P<not_trashed>trashed\s*=\s*false)"
    r"|(?P<field>name|fullText)\s+contains\s+'(?P<words>(?:[^'\\]|\\.)*)'"
    r"|'(?P<folder>(?:[^'\\]|\\.)*)'\s+in\s+parents"
)


def _list(caller: GoogleCaller) -> Response:
    query, order = caller.query.get("q", ""), caller.query.get("orderBy")
    if order is not None and "fullText" in query:
        raise GoogleRefused(
            403,
            "forbidden",
            "Sorting is not supported for queries with fullText terms. Results are always in descending relevance "
            "order.",
        )
    found = [file for file in caller.drives.of(caller.person.email) if _fits(file, query)]
    items: list[JsonValue] = [_body(caller, file) for file in found]
    page, following = caller.page(items, default=100, largest=1000, parameter="pageSize")
    answer: dict[str, JsonValue] = {"kind": "drive#fileList", "incompleteSearch": False, "files": page}
    if following is not None:
        answer["nextPageToken"] = following
    fields = caller.query.get("fields", f"nextPageToken,kind,incompleteSearch,files({_DEFAULT})")
    return JSONResponse(partial_answer(answer, fields))


def _fits(file: SimulatedFile, query: str) -> bool:
    """Whether the file matches a query: conditions joined by `and`. Raises GoogleRefused."""
    rest, fits = query.strip(), True
    while rest:
        condition = _CONDITION.match(rest)
        if condition is None:
            raise GoogleRefused(400, "invalid", "Invalid Value", location="q")
        words = re.sub(r"\\(.)", r"\1", condition["words"] or "").lower()
        if condition["field"] == "name":
            fits = fits and any(part.startswith(words) for part in [file.name.lower(), *file.name.lower().split()])
        elif condition["field"] == "fullText":
            fits = fits and words in f"{file.name} {file.content.decode(errors='ignore')}".lower()
        elif condition["folder"] is not None:
            fits = fits and file.parent == re.sub(r"\\(.)", r"\1", condition["folder"])
        rest = rest[condition.end() :]
        joined = re.match(r"\s+and\s+", rest)
        if rest and joined is None:
            raise GoogleRefused(400, "invalid", "Invalid Value", location="q")
        rest = rest[0 if joined is None else joined.end() :]
    return fits


def _body(caller: GoogleCaller, file: SimulatedFile) -> dict[str, JsonValue]:
    changed = datetime.fromtimestamp(caller.now, UTC) - timedelta(days=file.days)
    body: dict[str, JsonValue] = {
        "kind": "drive#file",
        "id": file.id,
        "name": file.name,
        "mimeType": file.mime,
        "modifiedTime": changed.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "webViewLink": f"https://drive.example.com/file/d/{file.id}/view",
        "parents": [file.parent],
        "trashed": False,
    }
    if not file.is_google:
        body["size"] = str(len(file.content) if file.size is None else file.size)
    if file.target is not None:
        body["shortcutDetails"] = {"targetId": file.target, "targetMimeType": "application/vnd.google-apps.document"}
    return body


def _file(caller: GoogleCaller) -> SimulatedFile:
    file = caller.drives.find(caller.person.email, caller.path["file"])
    if file is None:
        raise GoogleRefused(404, "notFound", f"File not found: {caller.path['file']}.", location="fileId")
    return file


def _get(caller: GoogleCaller) -> Response:
    file = _file(caller)
    if caller.query.get("alt") != "media":
        return JSONResponse(partial_answer(_body(caller, file), caller.query.get("fields", _DEFAULT)))
    if not caller.token.scopes & _CONTENT:
        message = "The user has not granted the app read access to the file."
        raise GoogleRefused(403, "appNotAuthorizedToFile", message)
    if file.is_google:
        text = "Only files with binary content can be directly downloaded. Use Export with Docs Editors files."
        raise GoogleRefused(403, "fileNotDownloadable", text, location="alt")
    return Response(file.content, media_type=file.mime)


def _export(caller: GoogleCaller) -> Response:
    file, wanted = _file(caller), caller.query.get("mimeType", "")
    if not file.is_google:
        raise GoogleRefused(403, "fileNotExportable", "Export only supports Docs Editors files.")
    if wanted not in _EXPORTS.get(file.mime.rpartition(".")[2], set()):
        raise GoogleRefused(400, "badRequest", "The requested conversion is not supported.", location="convertTo")
    return Response(file.content, headers={"content-type": wanted})


_SERVICE = "google.apps.drive.v3.DriveFiles"
LIST_FILES = Method("Files.List", _READ, _list, "drive", f"{_SERVICE}.List")
GET_FILE = Method("Files.Get", _READ, _get, "drive", f"{_SERVICE}.Get")
EXPORT_FILE = Method("Files.Export", _CONTENT, _export, "drive", f"{_SERVICE}.Export")
