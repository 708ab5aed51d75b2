"""Write Google's request rules from the discovery documents in google-api-python-client.

For each method, a discovery document names all scopes that Google accepts as alternatives. Two kinds of scope are
distinguished by hand: most apply to all data; the `PARTIAL` ones reach only a part (files that this app made, metadata
without content), which no request shows. A caller who has only a partial scope must not get a token that reaches
further, so each of those scopes gets its own rule, which names all others as inseparable. The same is done for all
scopes of a path in `MIXED`, where each scope selects what the answer shows. Some methods also reach another service's
data if the token has a scope for it, which their documents don't list: `widening_scopes` adds those scopes as
inseparable.

An address is the host alone where paths begin with a bare version: `/v1/people` and `/v1/spaces` differ, `/v1` doesn't.

    python -m tests.generating.google          writes providers/services/rules/google.json
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import googleapiclient

FILES = Path(__file__).parents[2] / "providers" / "services"
TARGET = FILES / "rules" / "google.json"
DOCUMENTS = (
    "analyticsadmin.v1beta",
    "analyticsdata.v1beta",
    "bigquery.v2",
    "calendar.v3",
    "chat.v1",
    "docs.v1",
    "drive.v3",
    "gmail.v1",
    "people.v1",
    "sheets.v4",
    "tasks.v1",
    "youtube.v3",
)
AUTH = "https://www.googleapis.com/auth/"
PARTIAL = frozenset(
    AUTH + name
    for name in (
        "calendar.app.created",
        "calendar.events.freebusy",
        "calendar.events.owned",
        "calendar.events.owned.readonly",
        "calendar.events.public.readonly",
        "drive.appdata",
        "drive.apps.readonly",
        "drive.file",
        "drive.meet.readonly",
        "drive.metadata",
        "drive.metadata.readonly",
        "drive.photos.readonly",
        "drive.scripts",
        "gmail.metadata",
    )
)
MIXED = frozenset({("chat", "/v1/spaces/{}/spaceEvents"), ("chat", "/v1/spaces/{}/spaceEvents/{}")})
# The answers contain a credential: the key of a live stream, or what lets anyone report events to Analytics.
SECRETS = frozenset(
    {
        ("analyticsadmin", "/v1beta/properties/{}/dataStreams/{}/measurementProtocolSecrets"),
        ("analyticsadmin", "/v1beta/properties/{}/dataStreams/{}/measurementProtocolSecrets/{}"),
        ("youtube", "/liveStreams"),
    }
)
# The one method that accepts `youtube.readonly` and not `youtube`, which covers it; Google doesn't say what it does.
LEFT_OUT = frozenset({"youtube.tests.insert"})


def document(name: str) -> Mapping[str, object]:
    """Read a discovery document that the library ships."""
    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def methods(resource: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Every method of a document, in the document's order."""
    yield from resource.get("methods", {}).values()
    for inner in resource.get("resources", {}).values():
        yield from methods(inner)


def accepted_scopes(known: frozenset[str]) -> Iterator[tuple[str, str, str, frozenset[str]]]:
    """API name, HTTP method, path below the API's base, and the known scopes that Google accepts there, if any."""
    for api, method, path, scopes, *_ in described_methods(known):
        yield api, method, path, scopes


def described_methods(
    known: frozenset[str],
) -> Iterator[tuple[str, str, str, frozenset[str], frozenset[str], frozenset[str] | None]]:
    """As `accepted_scopes`, with the names of the query's parameters and of the body's members; None for an upload.

    `watch` is left out: a channel keeps reporting changes to its URL after the agent that opened it was cut off.
    Identity scopes are left out, too: any token may have them, so they must not allow a call.
    """
    known -= identity_scopes()
    for name in DOCUMENTS:
        key, _, version = name.partition(".")
        schemas = document(name)["schemas"]
        for method in methods(document(name)):
            if str(method["id"]).endswith(".watch") or method["id"] in LEFT_OUT:
                continue
            scopes = frozenset(method.get("scopes", [])) & known
            path = below(str(method["path"]), f"{key}/{version}/", method)
            query = frozenset(
                str(name) for name, one in method.get("parameters", {}).items() if one["location"] == "query"
            )
            body = frozenset(schemas[method["request"]["$ref"]].get("properties", {}) if "request" in method else ())
            yield key, str(method["httpMethod"]), path, scopes, query, body
            upload = method.get("mediaUpload", {}).get("protocols", {}).get("simple")
            if upload is not None:
                sent = str(upload["path"]).removeprefix("/upload/").removeprefix(f"{key}/")
                at = below(sent, f"{version}/", method)
                yield f"{key}_upload", str(method["httpMethod"]), at, scopes, query, None
                # the chunks of a resumable upload, whatever method started it
                yield f"{key}_upload", "PUT", at, scopes, query | {"upload_id"}, None


def below(path: str, base: str, method: Mapping[str, object]) -> str:
    """The path below an API's base, if it has one, with a placeholder for each part that a client fills in.

    `{+name}` stands for what its pattern says: `^spaces/[^/]+$` is `spaces/{}`; `^.*$` is any number of segments.
    """

    def of_pattern(found: re.Match[str]) -> str:
        pattern = str(method["parameters"][found[1]]["pattern"]).removeprefix("^").removesuffix("$")
        return "{+}" if pattern == ".*" else pattern.replace("[^/]+", "{}")

    return placeholders(re.sub(r"\{\+(\w+)\}", of_pattern, path.removeprefix(base)))


def placeholders(path: str) -> str:
    """Turn `calendars/{calendarId}` into `/calendars/{}`; `{+}` stays."""
    return "/" + re.sub(r"\{\w+\}", "{}", path)


def rules(
    known: frozenset[str],
) -> Iterator[tuple[str, str, str, frozenset[str], frozenset[str], frozenset[str], frozenset[str] | None]]:
    """The rules: one for the scopes that reach everything, and one for each partial scope."""
    for api, method, path, scopes, query, body in described_methods(known):
        parts = scopes if (api, path) in MIXED else scopes & PARTIAL
        wider = widening_scopes(api, path, known)
        if whole := scopes - parts:
            yield api, method, path, whole, wider, query, body
        for part in sorted(parts):
            yield api, method, path, frozenset({part}), (scopes | wider) - {part}, query, body


def widening_scopes(api: str, path: str, known: frozenset[str]) -> frozenset[str]:
    """The known scopes with which a call also reaches another service's data, although its method doesn't list them.

    BigQuery reads files in Drive, including spreadsheets, through external tables. A spreadsheet reads data from
    BigQuery through a data source, which its creation and `batchUpdate` can add.
    """
    drive = frozenset(scope for scope in known if scope == f"{AUTH}drive" or scope.startswith(f"{AUTH}drive."))
    if api in {"bigquery", "bigquery_upload"}:
        return drive | (known & {f"{AUTH}spreadsheets", f"{AUTH}spreadsheets.readonly"})
    if api == "sheets" and path in {"/v4/spreadsheets", "/v4/spreadsheets/{}:batchUpdate"}:
        return drive | (known & {f"{AUTH}bigquery"})
    return frozenset()


def known_scopes() -> frozenset[str]:
    """The scopes that google.toml describes; others can't be requested, so no rule names them."""
    return frozenset(tomllib.loads((FILES / "google.toml").read_text(encoding="utf-8"))["scopes"])


def identity_scopes() -> frozenset[str]:
    """The scopes that google.toml asks for in addition, to know which account it is."""
    return frozenset(tomllib.loads((FILES / "google.toml").read_text(encoding="utf-8"))["scope"]["identity"])


def file_text() -> str:
    """The content of the file: one line per rule."""
    source = {
        "generated_by": "python -m tests.generating.google, from what Google accepts for each method",
        "package": f"google-api-python-client {importlib.metadata.version('google-api-python-client')}",
        **{name: f"revision {document(name)['revision']}" for name in DOCUMENTS},
    }
    lines: list[str] = []
    for api, method, path, scopes, inseparable, query, body in rules(known_scopes()):
        rule: dict[str, object] = {"api": api, "method": method, "path": path, "scopes": sorted(scopes)}
        if inseparable:
            rule["inseparable"] = sorted(inseparable)
        if query:
            rule["query"] = sorted(query)
        if body is None or body:
            rule["body"] = "any" if body is None else sorted(body)
        if (api, path) in SECRETS and method != "DELETE":
            rule["tells_secrets"] = True
        lines.append(json.dumps(rule))
    return '{"source": ' + json.dumps(source, indent=1) + ',\n"rules": [\n' + ",\n".join(lines) + "\n]}\n"


if __name__ == "__main__":
    TARGET.write_text(file_text(), encoding="utf-8")
    print(TARGET)
