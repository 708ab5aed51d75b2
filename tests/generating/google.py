"""Write Google's request rules from the discovery documents in google-api-python-client.

For each method, a discovery document names all scopes that Google accepts as alternatives. Two kinds of scope are
distinguished by hand: most apply to all data; the `PARTIAL` ones reach only a part (files that this app made, metadata
without content), which no request shows. A caller who has only a partial scope must not get a token that reaches
further, so each of those scopes gets its own rule, which names all others as inseparable.

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
DOCUMENTS = ("calendar.v3", "docs.v1", "drive.v3", "gmail.v1", "sheets.v4", "tasks.v1")
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
    """
    for name in DOCUMENTS:
        key, _, version = name.partition(".")
        schemas = document(name)["schemas"]
        for method in methods(document(name)):
            if str(method["id"]).endswith(".watch"):
                continue
            scopes = frozenset(method.get("scopes", [])) & known
            path = str(method["path"]).removeprefix(f"{key}/").removeprefix(f"{version}/")
            query = frozenset(
                str(name) for name, one in method.get("parameters", {}).items() if one["location"] == "query"
            )
            body = frozenset(schemas[method["request"]["$ref"]]["properties"] if "request" in method else ())
            yield key, str(method["httpMethod"]), placeholders(path), scopes, query, body
            upload = method.get("mediaUpload", {}).get("protocols", {}).get("simple")
            if upload is not None:
                at = str(upload["path"]).removeprefix(f"/upload/{key}/{version}/")
                yield f"{key}_upload", str(method["httpMethod"]), placeholders(at), scopes, query, None
                # the chunks of a resumable upload, whatever method started it
                yield f"{key}_upload", "PUT", placeholders(at), scopes, query | {"upload_id"}, None


def placeholders(path: str) -> str:
    """Turn `calendars/{calendarId}` into `/calendars/{}`."""
    return "/" + re.sub(r"\{[^}]*\}", "{}", path)


def rules(
    known: frozenset[str],
) -> Iterator[tuple[str, str, str, frozenset[str], frozenset[str], frozenset[str], frozenset[str] | None]]:
    """The rules: one for the scopes that reach everything, and one for each partial scope."""
    for api, method, path, scopes, query, body in described_methods(known):
        whole = scopes - PARTIAL
        if whole:
            yield api, method, path, whole, frozenset(), query, body
        for part in sorted(scopes & PARTIAL):
            yield api, method, path, frozenset({part}), scopes - {part}, query, body


def known_scopes() -> frozenset[str]:
    """The scopes that google.toml describes; others can't be requested, so no rule names them."""
    return frozenset(tomllib.loads((FILES / "google.toml").read_text(encoding="utf-8"))["scopes"])


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
        lines.append(json.dumps(rule))
    return '{"source": ' + json.dumps(source, indent=1) + ',\n"rules": [\n' + ",\n".join(lines) + "\n]}\n"


if __name__ == "__main__":
    TARGET.write_text(file_text(), encoding="utf-8")
    print(TARGET)
