"""Writes request rules from the OpenAPI documents that services publish, where these name each operation's scopes.

A document is read once, from a checkout of the repository that `SERVICES` names; what comes out stands in the
repository with its version, because the documents are megabytes. Operations without a scope get no rule. `tags` are the
parts of an API that were looked through: what answers with credentials (database passwords, integration keys, webhook
secrets) is left out. `widens` are parameters that show more than an operation's own scope: related objects, mostly.

    git clone https://github.com/Asana/openapi
    python -m tests.generating.openapi asana openapi/defs/asana_oas.yaml

writes providers/services/rules/asana.json and prints the scopes that asana.toml lacks. The answers that the document
has for the operations of our tools go into tests/data/published_answers.json; the tests' services give these.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Final

import yaml

FILES: Final = Path(__file__).parents[2] / "providers" / "services"
ANSWERS: Final = Path(__file__).parents[1] / "data" / "published_answers.json"
_METHODS: Final = ("get", "post", "put", "patch", "delete")
_QUERY_NAME: Final = re.compile(r"[A-Za-z0-9_$][A-Za-z0-9_.$\[\]-]*")


@dataclass(frozen=True)
class Service:
    """Where a service's document is, and how it names the scopes of an operation.

    `security`: the scheme whose list has them. `said`: the pattern of a description that says it. `alternatives`: any
    one of several is enough; otherwise all are needed.
    """

    repository: str
    base: str = ""  # of the document's paths, which the API's address in the provider file ends with
    security: str = ""
    said: str = ""
    alternatives: bool = False
    tags: frozenset[str] = frozenset()
    closed: str = r"(?!)"  # paths of these tags that are left out
    widens: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()  # scopes that the service no longer gives, or that stand for everything


SERVICES: Final[Mapping[str, Service]] = {
    "asana": Service(
        "github.com/Asana/openapi",
        said=r"<b>Required scope: </b>((?:<code>[a-z_]+:[a-z]+</code>[ ,and]*)+)",
        tags=frozenset(
            {"Attachments", "Projects", "Sections", "Stories", "Tags", "Tasks", "Teams", "Users", "Workspaces"}
        ),
        widens=frozenset({"opt_fields", "opt_expand"}),
    ),
    "digitalocean": Service(
        "github.com/digitalocean/openapi",
        base="/v2",
        security="bearer_auth",
        tags=frozenset(
            {
                *("Account", "Actions", "Block Storage", "Block Storage Actions", "CDN Endpoints", "Domain Records"),
                *("Domains", "Droplets", "Droplet Actions", "Firewalls", "Image Actions", "Images", "Load Balancers"),
                *("Project Resources", "Projects", "Regions", "Reserved IPs", "Sizes", "Snapshots", "SSH Keys", "Tags"),
                *("VPCs", "Uptime"),
            }
        ),
        closed=r".*/(account_transfer|destroy_with_associated_resources)\b.*",  # leaves the account; needs a header
        ignored=frozenset({"api:read", "api:write"}),
    ),
    "figma": Service(
        "github.com/figma/rest-api-spec",
        security="OAuth2",
        alternatives=True,
        ignored=frozenset({"files:read"}),
        tags=frozenset(
            {"Files", "Comments", "Comment Reactions", "Users", "Projects", "Components", "Component Sets", "Styles"}
        ),
    ),
    "pagerduty": Service(
        "github.com/PagerDuty/api-schema",
        said=r"Scoped OAuth requires: ((?:`[a-z_:.]+`[ ,and]*)+)",
        tags=frozenset(
            {
                *("Escalation Policies", "Incidents", "Log Entries", "Maintenance Windows", "On-Calls", "Priorities"),
                *("Services", "Teams", "Users"),  # not schedules: they answer with addresses of private feeds
            }
        ),
        closed=r".*/(integrations|sessions|oauth_delegations|rules|custom_fields|license|regenerate_private_url_key)\b.*",
        widens=frozenset({"include[]", "include", "additional_fields[]"}),
    ),
}


class Document:
    """An OpenAPI document whose parts may be in further files beside it."""

    def __init__(self, path: Path) -> None:
        self._read: dict[Path, Mapping[str, object]] = {}
        self.path = path.resolve()
        self.content = self._file(self.path)

    def _file(self, path: Path) -> Mapping[str, object]:
        if path not in self._read:
            text = path.read_text(encoding="utf-8")
            self._read[path] = json.loads(text) if path.suffix == ".json" else yaml.load(text, yaml.CSafeLoader)
        return self._read[path]

    def follow(self, value: Mapping[str, object], where: Path) -> tuple[Mapping[str, object], Path]:
        """What a reference leads to, and the file that has it; the value itself where it is none."""
        while "$ref" in value:
            name, _, inner = str(value["$ref"]).partition("#")
            where = (where.parent / name).resolve() if name else where
            value = self._file(where)
            for step in inner.split("/")[1:]:
                value = value[step.replace("~1", "/").replace("~0", "~")]
        return value, where

    def operations(self) -> Iterator[tuple[str, str, Mapping[str, object], Sequence[object], Path]]:
        """Method, path, operation, its parameters, and the file that it is in."""
        for path, item in self.content["paths"].items():
            item, where = self.follow(item, self.path)
            for method in _METHODS:
                if method in item:
                    operation, place = self.follow(item[method], where)
                    told = [self.follow(one, where)[0] for one in item.get("parameters", [])]
                    told += [self.follow(one, place)[0] for one in operation.get("parameters", [])]
                    yield method.upper(), path, operation, told, place

    def members(self, schema: Mapping[str, object], where: Path) -> Iterator[str]:
        """The names of an object's members, whichever of several shapes it has."""
        schema, where = self.follow(schema, where)
        yield from self.follow(schema.get("properties", {}), where)[0]
        for several in ("oneOf", "anyOf", "allOf"):
            for one in schema.get(several, []):
                yield from self.members(one, where)

    def example(self, schema: Mapping[str, object], where: Path, *, depth: int = 6) -> object:
        """A value that fits the schema, of the examples in it where there are any."""
        schema, where = self.follow(schema, where)
        if "example" in schema:
            return schema["example"]
        if "allOf" in schema or "properties" in schema:
            parts = [*schema.get("allOf", []), *([schema] if "properties" in schema else [])]
            made: dict[str, object] = {}
            for part in parts:
                part, place = self.follow(part, where) if part is not schema else (part, where)
                if "allOf" in part and part is not schema:
                    made |= self.example(part, place, depth=depth)
                    continue
                properties, place = self.follow(part.get("properties", {}), place)
                if depth > 0:
                    made |= {name: self.example(one, place, depth=depth - 1) for name, one in properties.items()}
            return made
        for several in ("oneOf", "anyOf"):
            if several in schema:
                return self.example(schema[several][0], where, depth=depth)
        match schema.get("type"):
            case "array":
                return [self.example(schema["items"], where, depth=depth - 1)] if depth > 0 else []
            case "integer" | "number":
                return 1
            case "boolean":
                return True
            case "object":
                return {}
            case _:
                return schema["enum"][0] if "enum" in schema else "text"


def scopes_of(service: Service, operation: Mapping[str, object]) -> tuple[str, ...]:
    """The scopes that the document names for the operation, in its order."""
    if service.said:
        found = re.search(service.said, str(operation.get("description", "")))
        return () if found is None else tuple(re.findall(r"[a-z_]+[:.][a-z_.:]*[a-z]", found[1]))
    listed = [one[service.security] for one in operation.get("security", []) if service.security in one]
    return tuple(dict.fromkeys(scope for one in listed for scope in one if scope not in service.ignored))


def rules(name: str, document: Document) -> Iterator[Mapping[str, object]]:
    """The rules, in the order of the document."""
    service = SERVICES[name]
    for method, path, operation, told, where in document.operations():
        scopes = scopes_of(service, operation)
        template = re.sub(r"[{][^}]*[}]", "{}", path).removeprefix(service.base)
        if not scopes or service.tags.isdisjoint(operation.get("tags", [])) or re.fullmatch(service.closed, template):
            continue
        content, place = document.follow(operation.get("requestBody", {}), where)
        kinds = content.get("content", {})
        query = {one["name"] for one in told if one["in"] == "query" and _QUERY_NAME.fullmatch(one["name"])}
        body = {
            member for kind, one in kinds.items() if "json" in kind for member in document.members(one["schema"], place)
        }
        rule: dict[str, object] = {"api": "main", "method": method, "path": template.rstrip("/")}
        rule["scopes"] = sorted(scopes) if service.alternatives else list(scopes[:1])
        if not service.alternatives and scopes[1:]:
            rule["needs"] = sorted(scopes[1:])
        if names := sorted(query - service.widens):
            rule["query"] = names
        if body:
            rule["body"] = sorted(body)
        yield rule


SERVED: Final[Mapping[str, tuple[str, ...]]] = {  # operations of declared tools
    "asana": ("GET /workspaces", "GET /tasks", "GET /tasks/{task_gid}", "POST /tasks"),
    "digitalocean": (
        *("GET /v2/droplets", "GET /v2/domains/{domain_name}/records", "POST /v2/droplets/{droplet_id}/actions"),
    ),
    "figma": (
        "GET /v1/files/{file_key}/meta",
        "GET /v1/files/{file_key}/comments",
        "POST /v1/files/{file_key}/comments",
    ),
    "pagerduty": ("GET /incidents", "GET /incidents/{id}", "GET /oncalls", "POST /incidents/{id}/notes"),
}


def answers(name: str, document: Document) -> Mapping[str, object]:
    """Operation -> what the document says that the answer looks like: its example, or one made of its schema."""
    found: dict[str, object] = {}
    for method, path, operation, _, where in document.operations():
        if f"{method} {path}" in SERVED[name]:
            status, response = next(item for item in operation["responses"].items() if str(item[0]).startswith("2"))
            response, place = document.follow(response, where)
            kind = response["content"]["application/json"]
            template = re.sub(r"[{][^}]*[}]", "{}", path).removeprefix(SERVICES[name].base)
            found[f"{method} {template}"] = {"status": int(status), "body": _body(document, kind, place)}
    return found


def _body(document: Document, kind: Mapping[str, object], where: Path) -> object:
    for one in kind.get("examples", {}).values():
        example, _ = document.follow(one, where)
        return example["value"]
    return kind["example"] if "example" in kind else document.example(kind["schema"], where)


def written(name: str, document: Document, *, version: str) -> str:
    """The file: a line for each rule."""
    source = {
        "generated_by": f"python -m tests.generating.openapi {name}",
        "document": f"{SERVICES[name].repository} {version}",
    }
    lines = ",\n".join(json.dumps(rule) for rule in rules(name, document))
    return f'{{"source": {json.dumps(source)},\n"rules": [\n{lines}\n]}}\n'


def _as_text(value: object) -> str:
    """A time, which YAML reads as such."""
    return value.isoformat() if isinstance(value, date | datetime) else str(value)


def _keep_answers(name: str, document: Document, *, version: str) -> None:
    kept = json.loads(ANSWERS.read_text(encoding="utf-8")) if ANSWERS.exists() else {}
    kept[name] = {"document": f"{SERVICES[name].repository} {version}", "answers": answers(name, document)}
    lines = ",\n".join(f"{json.dumps(one)}: {json.dumps(kept[one], default=_as_text)}" for one in sorted(kept))
    ANSWERS.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def main(name: str, path: Path) -> None:
    """Write the rules of one service, and print the scopes that its provider file does not have."""
    git = ["git", "-C", str(path.parent), "log", "-1", "--format=%h %cs"]
    version = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    target = FILES / "rules" / f"{name}.json"
    target.write_text(written(name, Document(path), version=version), encoding="utf-8")
    _keep_answers(name, Document(path), version=version)
    made = json.loads(target.read_text(encoding="utf-8"))["rules"]
    needed = {scope for rule in made for scope in (*rule["scopes"], *rule.get("needs", ()))}
    known = tomllib.loads((FILES / f"{name}.toml").read_text(encoding="utf-8"))["scopes"]
    print(f"{len(made)} rules in {target.name}; missing scopes: {' '.join(sorted(needed - known.keys())) or 'none'}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
