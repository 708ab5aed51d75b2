"""Write the request rules of Microsoft Graph from the permissions and the metadata that Microsoft publishes.

`permissions.json` names the delegated permissions that Graph accepts for each call. Some of them don't fit their title:
permissions for SharePoint also reach the person's own files, and some calls that change something accept a permission
to read. So `PARTS` lists each reviewed call with the one scope whose title describes it, and Graph must accept that
scope there. `CITED` are calls that the file lacks and a page of the reference has. Left out are answers with sharing
links or upload URLs, other people's data (`/users`, `/drives`, `/planner`), and `$batch` and `/search/query`, which
reach many kinds of data in one call. The metadata has the members of bodies.

    git clone https://github.com/microsoftgraph/microsoft-graph-devx-content
    git clone https://github.com/microsoftgraph/msgraph-metadata
    python -m tests.generating.microsoft microsoft-graph-devx-content msgraph-metadata

This writes providers/services/rules/microsoft.json.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from tests.generating.openapi_document import template_of
from tests.generating.published.service import FILES

TARGET: Final = FILES / "rules" / "microsoft.json"
_EDM: Final = "{http://docs.oasis-open.org/odata/ns/edm}"
_SEGMENTS: Final = frozenset({"content", "delta", "root", "sites", "teams"})  # of paths, not of the metadata
_FILE: Final = ("@odata.type", "contentBytes", "contentId", "contentType", "isInline", "name")  # not of a linked one
# Members that Graph sets, or that place an item elsewhere.
_UNSENT: Final[Mapping[str, frozenset[str]]] = {
    "outlookItem": frozenset({"changeKey", "createdDateTime", "id", "lastModifiedDateTime"}),
    "message": frozenset(
        {
            *("bodyPreview", "conversationId", "conversationIndex", "hasAttachments", "isDraft", "parentFolderId"),
            *("receivedDateTime", "sentDateTime", "uniqueBody", "webLink"),
        }
    ),
    "event": frozenset(
        {
            *("bodyPreview", "cancelledOccurrences", "hasAttachments", "iCalUId", "isCancelled", "isDraft"),
            *("isOrganizer", "onlineMeeting", "onlineMeetingUrl", "organizer", "originalEndTimeZone", "originalStart"),
            *("originalStartTimeZone", "responseStatus", "seriesMasterId", "type", "webLink"),
        }
    ),
    "contact": frozenset({"parentFolderId"}),
}


@dataclass(frozen=True)
class Calls:
    """Calls of one method with the same scope, which a caller needs besides `needs`. A body has the parameters of the
    action `of`, or `body`, of this type; without `body`, what can be sent of the type. `exact`: other parameters are
    always refused."""

    scope: str
    calls: str
    query: str = ""
    of: str = ""
    body: tuple[str, ...] = ()
    content: bool = False
    needs: str = ""
    where: tuple[tuple[str, str], ...] = ()
    exact: bool = False


CITED: Final = frozenset(  # learn.microsoft.com/graph/api: attachment-get, calendar-get, user-list-calendarview
    {
        *("GET /me/messages/{}/attachments/{}", "GET /me/events/{}/attachments/{}"),
        *("GET /me/calendar", "GET /me/calendars/{}", "GET /me/calendarView"),
    }
)
# Related objects of files, sites, teams, and calendars contain sharing links or URLs that need no token, or belong to
# others. Graph also accepts the name without `$`.
_EXPANDING: Final = ("$expand", "expand")
_UNRELATED: Final = tuple((name, "") for name in _EXPANDING)
_UNRELATED_SCOPES: Final = frozenset(
    {
        *("Files.Read", "Files.ReadWrite", "Sites.Read.All", "Sites.ReadWrite.All"),
        *("Team.ReadBasic.All", "Channel.ReadBasic.All"),
    }
)
_FIELDS: Final = tuple((name, r"(fields(\(\$select=[A-Za-z0-9_,]+\))?)?") for name in _EXPANDING)
_FOLDER: Final = ("@odata.type", "displayName", "isHidden")
_TASK: Final = (
    *("@odata.type", "body", "categories", "completedDateTime", "dueDateTime", "importance", "isReminderOn"),
    *("recurrence", "reminderDateTime", "startDateTime", "status", "title"),
)
_NEW_FOLDER: Final = ("@microsoft.graph.conflictBehavior", "@odata.type", "description", "folder", "name")  # no remote
_UPLOADING: Final = "$select @microsoft.graph.conflictBehavior"
_CHAT_MESSAGE: Final = (  # no attachments, which can forward messages of other chats
    *("@odata.type", "body", "importance", "mentions", "subject", "summary", "hostedContents/@odata.type"),
    *("hostedContents/@microsoft.graph.temporaryId", "hostedContents/contentBytes", "hostedContents/contentType"),
)
PARTS: Final = (
    Calls(
        "Mail.Read",
        "GET /me/messages /me/messages/{} /me/mailFolders/{}/messages /me/mailFolders/{}/messages/{}"
        " /me/messages/{}/attachments /me/messages/{}/attachments/{} /me/mailFolders/{}/messages/{}/attachments",
        query="$select",
    ),
    Calls(
        "Mail.Read",
        "GET /me/mailFolders /me/mailFolders/{} /me/mailFolders/{}/childFolders",
        query="$select includeHiddenFolders",
    ),
    Calls("Mail.Read", "GET /me/mailFolders/delta", query="$select $deltatoken"),
    Calls("Mail.Read", "GET /me/mailFolders/{}/messages/delta", query="$select $deltatoken changeType"),
    Calls("Mail.ReadWrite", "POST /me/messages /me/mailFolders/{}/messages", of="message"),  # a draft
    Calls("Mail.ReadWrite", "PATCH /me/messages/{} /me/mailFolders/{}/messages/{}", of="message"),
    Calls("Mail.ReadWrite", "DELETE /me/messages/{} /me/mailFolders/{}/messages/{}"),
    Calls("Mail.ReadWrite", "POST /me/messages/{}/attachments", of="fileAttachment", body=_FILE),
    Calls("Mail.ReadWrite", "POST /me/messages/{}/move", of="message.move"),
    Calls("Mail.ReadWrite", "POST /me/messages/{}/copy", of="message.copy"),
    Calls("Mail.ReadWrite", "POST /me/messages/{}/createReply", of="message.createReply"),
    Calls("Mail.ReadWrite", "POST /me/messages/{}/createReplyAll", of="message.createReplyAll"),
    Calls("Mail.ReadWrite", "POST /me/messages/{}/createForward", of="message.createForward"),
    Calls("Mail.ReadWrite", "POST /me/mailFolders /me/mailFolders/{}/childFolders", of="mailFolder", body=_FOLDER),
    Calls("Mail.ReadWrite", "PATCH /me/mailFolders/{}", of="mailFolder", body=_FOLDER),
    Calls("Mail.ReadWrite", "DELETE /me/mailFolders/{}"),
    Calls("Mail.Send", "POST /me/sendMail", of="user.sendMail"),
    # A reply and a forward contain the message, and a draft may be anybody's: who sends it must be allowed to read it.
    Calls("Mail.Send", "POST /me/messages/{}/reply", of="message.reply", needs="Mail.Read"),
    Calls("Mail.Send", "POST /me/messages/{}/replyAll", of="message.replyAll", needs="Mail.Read"),
    Calls("Mail.Send", "POST /me/messages/{}/forward", of="message.forward", needs="Mail.Read"),
    Calls("Mail.Send", "POST /me/messages/{}/send", needs="Mail.Read"),
    Calls(
        "Calendars.Read",
        "GET /me/events /me/events/{} /me/calendar/events /me/calendars/{}/events /me/calendars/{}/events/{}"
        " /me/events/{}/attachments /me/events/{}/attachments/{}",
        query="$select",
    ),
    Calls("Calendars.Read", "GET /me/calendars /me/calendar /me/calendars/{}", query="$select", where=_UNRELATED),
    Calls(
        "Calendars.Read",
        "GET /me/calendarView /me/calendar/calendarView /me/calendars/{}/calendarView /me/events/{}/instances",
        query="$select endDateTime startDateTime",
    ),
    Calls(
        "Calendars.Read",
        "GET /me/calendarView/delta /me/calendars/{}/calendarView/delta",
        query="$select $deltatoken endDateTime startDateTime",
    ),
    Calls("Calendars.Read", "POST /me/calendar/getSchedule", of="calendar.getSchedule"),
    Calls("Calendars.ReadWrite", "POST /me/events /me/calendar/events /me/calendars/{}/events", of="event"),
    Calls("Calendars.ReadWrite", "PATCH /me/events/{} /me/calendars/{}/events/{}", of="event"),
    Calls("Calendars.ReadWrite", "DELETE /me/events/{} /me/calendars/{}/events/{}"),
    Calls("Calendars.ReadWrite", "POST /me/calendars", of="calendar", body=("@odata.type", "color", "name")),
    Calls("Calendars.ReadWrite", "POST /me/events/{}/accept", of="event.accept"),
    Calls("Calendars.ReadWrite", "POST /me/events/{}/tentativelyAccept", of="event.tentativelyAccept"),
    Calls("Calendars.ReadWrite", "POST /me/events/{}/decline", of="event.decline"),
    Calls("Calendars.ReadWrite", "POST /me/events/{}/cancel", of="event.cancel"),
    Calls("Calendars.ReadWrite", "POST /me/events/{}/snoozeReminder", of="event.snoozeReminder"),
    Calls("Calendars.ReadWrite", "POST /me/events/{}/dismissReminder"),
    Calls("Calendars.ReadWrite", "POST /me/events/{}/attachments", of="fileAttachment", body=_FILE),
    # A path in a drive is one segment: in several, it could lead to the person who created a file, and their drive.
    Calls(
        "Files.Read",
        "GET /me/drive /me/drive/root /me/drive/root/children /me/drive/root/search{} /me/drive/items/{}"
        " /me/drive/items/{}/children /me/drive/items/{}/versions /me/drive/items/{}/versions/{}"
        " /me/drive/special/{} /me/drive/special/{}/children",
        query="$select",
    ),
    Calls(
        "Files.Read",
        "GET /me/drive/items/{}/content /me/drive/items/{}/versions/{}/content /me/drive/root:/{}:/content",
    ),
    Calls("Files.Read", "GET /me/drive/root/delta", query="$select $deltatoken token"),
    Calls(
        "Files.ReadWrite",
        "PUT /me/drive/items/{}/content /me/drive/items/{}:/{}:/content",
        query=_UPLOADING,
        content=True,
    ),
    Calls(
        "Files.ReadWrite",
        "POST /me/drive/root/children /me/drive/items/{}/children",
        of="driveItem",
        body=_NEW_FOLDER,
        exact=True,
    ),
    Calls(
        "Files.ReadWrite",
        "PATCH /me/drive/items/{}",
        of="driveItem",
        body=(
            *("@odata.type", "@microsoft.graph.conflictBehavior", "description", "fileSystemInfo", "name"),
            *("parentReference/@odata.type", "parentReference/id"),  # not another drive
        ),
        exact=True,
    ),
    Calls("Files.ReadWrite", "DELETE /me/drive/items/{}"),
    Calls("Files.ReadWrite", "POST /me/drive/items/{}/checkout /me/drive/items/{}/versions/{}/restoreVersion"),
    Calls("Files.ReadWrite", "POST /me/drive/items/{}/checkin", of="driveItem.checkin"),
    # Excel's service opens the file for these reads, too.
    Calls(
        "Files.ReadWrite",
        "GET /me/drive/items/{}/workbook/worksheets /me/drive/items/{}/workbook/worksheets/{}"
        " /me/drive/items/{}/workbook/worksheets/{}/usedRange /me/drive/items/{}/workbook/worksheets/{}/range{}"
        " /me/drive/items/{}/workbook/worksheets/{}/tables /me/drive/items/{}/workbook/tables"
        " /me/drive/items/{}/workbook/tables/{} /me/drive/items/{}/workbook/tables/{}/columns"
        " /me/drive/items/{}/workbook/tables/{}/rows",
        query="$select",
    ),
    Calls(
        "Files.ReadWrite",
        "PATCH /me/drive/items/{}/workbook/worksheets/{}/range{}",
        of="workbookRange",
        body=("@odata.type", "formulas", "numberFormat", "values"),
        exact=True,
    ),
    Calls(
        "Files.ReadWrite",
        "POST /me/drive/items/{}/workbook/worksheets/add",
        of="workbookWorksheet",
        body=("name",),
        exact=True,
    ),
    Calls(
        "Files.ReadWrite",
        "POST /me/drive/items/{}/workbook/tables/{}/rows/add",
        of="workbookTableRow",
        body=("index", "values"),
        exact=True,
    ),
    Calls(
        "Notes.Read",
        "GET /me/onenote/notebooks /me/onenote/notebooks/{} /me/onenote/notebooks/{}/sections /me/onenote/sections"
        " /me/onenote/sections/{} /me/onenote/sections/{}/pages /me/onenote/pages /me/onenote/pages/{}",
        query="$select pagelevel",
    ),
    Calls("Notes.Read", "GET /me/onenote/pages/{}/content", query="includeIDs"),
    Calls("Notes.ReadWrite", "POST /me/onenote/sections/{}/pages /me/onenote/pages", content=True),
    Calls("Notes.ReadWrite", "PATCH /me/onenote/pages/{}/content", content=True),
    Calls("Notes.ReadWrite", "DELETE /me/onenote/pages/{}"),
    Calls(
        "Notes.ReadWrite",
        "POST /me/onenote/notebooks/{}/sections",
        of="onenoteSection",
        body=("@odata.type", "displayName"),
    ),
    Calls(
        "Contacts.Read",
        "GET /me/contacts /me/contacts/{} /me/contactFolders /me/contactFolders/{} /me/contactFolders/{}/contacts"
        " /me/contactFolders/{}/contacts/{}",
        query="$select",
    ),
    Calls("Contacts.Read", "GET /me/contactFolders/{}/contacts/delta", query="$select $deltatoken"),
    Calls("Contacts.ReadWrite", "POST /me/contacts /me/contactFolders/{}/contacts", of="contact"),
    Calls("Contacts.ReadWrite", "PATCH /me/contacts/{} /me/contactFolders/{}/contacts/{}", of="contact"),
    Calls("Contacts.ReadWrite", "DELETE /me/contacts/{} /me/contactFolders/{}/contacts/{}"),
    Calls(
        "Tasks.Read",
        "GET /me/todo/lists /me/todo/lists/{} /me/todo/lists/{}/tasks /me/todo/lists/{}/tasks/{}"
        " /me/todo/lists/{}/tasks/{}/checklistItems /me/todo/lists/{}/tasks/{}/linkedResources"
        " /me/todo/lists/{}/tasks/{}/attachments /me/todo/lists/{}/tasks/{}/attachments/{} /me/planner/tasks",
        query="$select",
    ),
    Calls("Tasks.Read", "GET /me/todo/lists/{}/tasks/delta", query="$select $deltatoken"),
    Calls("Tasks.ReadWrite", "POST /me/todo/lists", of="todoTaskList", body=("@odata.type", "displayName")),
    Calls("Tasks.ReadWrite", "PATCH /me/todo/lists/{}", of="todoTaskList", body=("@odata.type", "displayName")),
    Calls(
        "Tasks.ReadWrite",
        "POST /me/todo/lists/{}/tasks",
        of="todoTask",
        body=(*_TASK, "checklistItems", "linkedResources"),
    ),
    Calls("Tasks.ReadWrite", "PATCH /me/todo/lists/{}/tasks/{}", of="todoTask", body=_TASK),
    Calls(
        "Tasks.ReadWrite",
        "POST /me/todo/lists/{}/tasks/{}/checklistItems",
        of="checklistItem",
        body=("@odata.type", "checkedDateTime", "displayName", "isChecked"),
    ),
    Calls(
        "Tasks.ReadWrite",
        "PATCH /me/todo/lists/{}/tasks/{}/checklistItems/{}",
        of="checklistItem",
        body=("@odata.type", "checkedDateTime", "displayName", "isChecked"),
    ),
    Calls(
        "Tasks.ReadWrite",
        "POST /me/todo/lists/{}/tasks/{}/linkedResources",
        of="linkedResource",
        body=("@odata.type", "applicationName", "displayName", "externalId", "webUrl"),
    ),
    Calls(
        "Tasks.ReadWrite",
        "DELETE /me/todo/lists/{} /me/todo/lists/{}/tasks/{} /me/todo/lists/{}/tasks/{}/checklistItems/{}"
        " /me/todo/lists/{}/tasks/{}/linkedResources/{}",
    ),
    Calls(
        "Sites.Read.All",
        "GET /sites/root /sites/{} /sites/{}:/sites/{} /sites/{}:/teams/{} /sites/{}/sites /sites/{}/lists"
        " /sites/{}/lists/{} /sites/{}/lists/{}/columns /sites/{}/drive /sites/{}/drives /sites/{}/drive/items/{}"
        " /sites/{}/drive/items/{}/children /sites/{}/drive/root/search{} /sites/{}/pages /sites/{}/pages/{}",
        query="$select",
    ),
    Calls("Sites.Read.All", "GET /sites/{}/drive/items/{}/content"),
    Calls("Sites.Read.All", "GET /sites", query="$select search"),
    Calls(
        "Sites.Read.All",
        "GET /sites/{}/lists/{}/items /sites/{}/lists/{}/items/{}",
        query="$select",
        where=_FIELDS,
    ),
    Calls("Sites.ReadWrite.All", "POST /sites/{}/lists/{}/items", of="listItem", body=("@odata.type", "fields")),
    Calls("Sites.ReadWrite.All", "PATCH /sites/{}/lists/{}/items/{}/fields", content=True),
    Calls("Sites.ReadWrite.All", "DELETE /sites/{}/lists/{}/items/{}"),
    Calls(
        "Sites.ReadWrite.All",
        "POST /sites/{}/drive/items/{}/children",
        of="driveItem",
        body=_NEW_FOLDER,
        exact=True,
    ),
    Calls("Sites.ReadWrite.All", "PUT /sites/{}/drive/items/{}/content", query=_UPLOADING, content=True),
    Calls("Sites.ReadWrite.All", "PUT /sites/{}/drive/items/{}:/{}:/content", query=_UPLOADING, content=True),
    Calls(
        "Chat.Read",
        "GET /chats /me/chats /chats/{} /me/chats/{} /chats/{}/members /chats/{}/messages /chats/{}/messages/{}"
        " /me/chats/{}/messages /me/chats/{}/messages/{}",
        query="$select",
    ),
    Calls("Chat.ReadWrite", "POST /chats/{}/messages", of="chatMessage", body=_CHAT_MESSAGE, exact=True),
    Calls("Chat.ReadWrite", "POST /chats", of="chat", body=("@odata.type", "chatType", "members", "topic")),
    Calls("Chat.ReadWrite", "PATCH /chats/{}", of="chat", body=("@odata.type", "topic")),
    Calls("Team.ReadBasic.All", "GET /me/joinedTeams /teams/{}", query="$select"),
    Calls("Channel.ReadBasic.All", "GET /teams/{}/channels /teams/{}/channels/{}", query="$select"),
    Calls(
        "ChannelMessage.Send",
        "POST /teams/{}/channels/{}/messages /teams/{}/channels/{}/messages/{}/replies",
        of="chatMessage",
        body=_CHAT_MESSAGE,
        exact=True,
    ),
)
# What a body may also have: relations whose members are listed one by one.
_RELATED: Final[Mapping[str, tuple[str, ...]]] = {
    name: (
        *(f"attachments/{one}" for one in _FILE),
        *("multiValueExtendedProperties", "singleValueExtendedProperties"),
    )
    for name in ("message", "event")
}


def accepting_permissions(permissions: Mapping[str, object]) -> Mapping[tuple[str, str], frozenset[str]]:
    """Method and path in lowercase, and the delegated permissions of work accounts that Graph accepts there."""
    found: dict[tuple[str, str], set[str]] = {}
    for name, about in permissions["permissions"].items():
        for some in about["pathSets"]:
            if "DelegatedWork" in some["schemeKeys"]:
                for path in some["paths"]:
                    for method in some["methods"]:
                        found.setdefault((method, _lookup_path(path)), set()).add(name)
    return {call: frozenset(names) for call, names in found.items()}


def _lookup_path(path: str) -> str:
    way = re.sub(r"[(].*[)]", "{}", template_of(path)).lower().replace("/users/me/", "/me/")
    return re.sub(r"^(/sites/{}:)/(sites|teams)/{}$", r"\1/{}", way)  # the permissions have the site's path in one


class Metadata:
    """The types and actions of Graph's metadata (OData CSDL)."""

    def __init__(self, path: Path) -> None:
        self._tree = ElementTree.parse(path)

    @cached_property
    def names(self) -> frozenset[str]:
        """What a segment of a path can be."""
        kinds = ("NavigationProperty", "Property", "EntitySet", "Singleton", "Action", "Function")
        return frozenset(str(one.get("Name")) for kind in kinds for one in self._tree.iter(_EDM + kind))

    @cached_property
    def _types(self) -> Mapping[str, ElementTree.Element]:
        found: dict[str, ElementTree.Element] = {}
        for kind in ("EntityType", "ComplexType"):
            for one in self._tree.iter(_EDM + kind):
                found.setdefault(str(one.get("Name")), one)
        return found

    def properties(self, name: str) -> frozenset[str]:
        """The properties of a type, without relations, and those of the types that it is based on."""
        element = self._types[name]
        base = element.get("BaseType")
        inherited = frozenset[str]() if base is None else self.properties(base.rpartition(".")[2])
        return inherited | {str(one.get("Name")) for one in element.findall(f"{_EDM}Property")}

    def writable_properties(self, name: str) -> frozenset[str]:
        """The properties that Graph doesn't set itself."""
        return self.properties(name) - _UNSENT[name] - _UNSENT["outlookItem"]

    def relations(self, name: str) -> frozenset[str]:
        """The relations of a type itself."""
        return frozenset(str(one.get("Name")) for one in self._types[name].findall(f"{_EDM}NavigationProperty"))

    def parameters(self, kind: str, action: str) -> frozenset[str]:
        """The parameters of an action of a type, in both capitalizations that Graph takes."""
        for one in self._tree.iter(f"{_EDM}Action"):
            first, *others = one.findall(f"{_EDM}Parameter")
            if one.get("Name") == action and first.get("Type") == f"graph.{kind}":
                names = {str(other.get("Name")) for other in others}
                return frozenset(names | {name[0].lower() + name[1:] for name in names})
        raise SystemExit(f"the metadata has no {kind}.{action}")


def body(metadata: Metadata, part: Calls) -> list[str]:
    """The members of the body that the rule knows."""
    kind, _, action = part.of.partition(".")
    if action:
        names = metadata.parameters(kind, action)
        inner = [name for name in names if name.lower() == "message"]
        return sorted((names - {*inner}) | {f"{name}/{one}" for name in inner for one in _all(metadata, "message")})
    if not part.body:
        return sorted(_all(metadata, kind))
    known = metadata.properties(kind) | metadata.relations(kind)
    if strange := {name for one in part.body if not (name := one.partition("/")[0]).startswith("@")} - known:
        raise SystemExit(f"{kind} has no {' '.join(sorted(strange))}")
    return sorted(part.body)


def _all(metadata: Metadata, kind: str) -> frozenset[str]:
    return frozenset({"@odata.type", *metadata.writable_properties(kind), *_RELATED.get(kind, ())})


def rules(
    permissions: Mapping[str, object], metadata: Metadata, parts: Iterable[Calls] = PARTS
) -> Iterator[Mapping[str, object]]:
    """The rules, in the order of the parts."""
    table = accepting_permissions(permissions)
    for part in parts:
        method, *paths = part.calls.split()
        for path in paths:
            names = table.get((method, _lookup_path(path)), frozenset[str]())
            if part.scope not in names and f"{method} {path}" not in CITED:
                raise SystemExit(f"{method} {path} accepts {' '.join(sorted(names)) or 'nothing'}, not {part.scope}")
            if strange := set(re.findall(r"[A-Za-z]+", path)) - metadata.names - _SEGMENTS:
                raise SystemExit(f"the metadata has no {' '.join(sorted(strange))}")
            rule: dict[str, object] = {"api": "graph", "method": method, "path": path, "scopes": [part.scope]}
            if part.needs:
                rule["needs"] = [part.needs]
            if where := _where(part):
                rule["where"] = where
            if part.query:
                rule["query"] = sorted(part.query.split())
            if part.content:
                rule["body"] = "any"
            elif part.of:
                rule["body"] = body(metadata, part)
            if _is_exact(part):
                rule["exact"] = True
            yield rule


def _where(part: Calls) -> dict[str, str]:
    """What parameters of the call must match."""
    is_exempt = _is_exact(part) or part.scope not in _UNRELATED_SCOPES
    return ({} if is_exempt else dict(_UNRELATED)) | dict(part.where)


def _is_exact(part: Calls) -> bool:
    """Whether other parameters are refused; for content, because a body that is a file isn't read to find any."""
    return part.exact or (part.content and part.scope in _UNRELATED_SCOPES)


def _version(folder: Path) -> str:
    git = ["git", "-C", str(folder), "log", "-1", "--format=%h %cs"]
    return subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()


def main(permissions: Path, metadata: Path) -> None:
    """Write the rules."""
    document = json.loads((permissions / "permissions" / "new" / "permissions.json").read_text(encoding="utf-8"))
    made = list(rules(document, Metadata(metadata / "clean_v10_metadata" / "cleanMetadata.xml")))
    source = {
        "generated_by": "python -m tests.generating.microsoft",
        "permissions": f"github.com/microsoftgraph/microsoft-graph-devx-content {_version(permissions)}",
        "metadata": f"github.com/microsoftgraph/msgraph-metadata {_version(metadata)}",
    }
    lines = ",\n".join(json.dumps(rule) for rule in made)
    TARGET.write_text(f'{{"source": {json.dumps(source)},\n"rules": [\n{lines}\n]}}\n', encoding="utf-8")
    known = tomllib.loads((FILES / "microsoft.toml").read_text(encoding="utf-8"))["scopes"]
    missing = {str(scope) for rule in made for scope in rule["scopes"]} - known.keys()
    print(f"{len(made)} rules in {TARGET.name}; missing scopes: {' '.join(sorted(missing)) or 'none'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
