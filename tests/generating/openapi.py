"""Write request rules from the OpenAPI documents that services publish, if these name each operation's scopes.

A document is read once, from a checkout of the repository that `SERVICES` names (for Stripe, from its Python library).
The result is stored in the repository with its version, because the documents are megabytes. Operations without a scope
get no rule. `tags` are the reviewed parts of an API: operations that return credentials (database passwords,
integration keys, webhook secrets) are left out. `widens` are parameters that show more than an operation's own scope,
mostly related objects.

    git clone https://github.com/Asana/openapi
    python -m tests.generating.openapi asana openapi/defs/asana_oas.yaml

This writes providers/services/rules/asana.json and prints the scopes that asana.toml lacks. Give all documents of a
service that has several, and `--version` for what is outside a checkout. The document's answers for the operations of
our tools go into tests/data/published_answers.json; the tests' services return these.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Final

from tests.generating.openapi_contracts import keep_contract
from tests.generating.openapi_document import Document, template_of
from tests.generating.openapi_services import SERVICES
from tests.generating.published import stripe_library
from tests.generating.published.service import Part, Service

ANSWERS: Final = Path(__file__).parents[1] / "data" / "published_answers.json"
_QUERY_NAME: Final = re.compile(r"[A-Za-z0-9_$][A-Za-z0-9_.$\[\]-]*")
MEMBER: Final = re.compile(r"[A-Za-z0-9_$@][A-Za-z0-9_.$@-]*")
_Content = tuple[Document, Mapping[str, object], Path]
_Operation = tuple[Document, Mapping[str, object], Sequence[object], Path]
_SECRET: Final = re.compile(
    r"secret|passw|credential|private_?key|api_?key|host_key|signing|start_url|zak|passcode|(access|refresh|auth|deploy|bot|user|protection)_?token|^token$",
    re.IGNORECASE,
)

_NO_SECRET: Final = frozenset(
    {
        *("accessPasswordRequired", "hasPasswordAuth", "storeCredentials", "public_api_key", "is_password_enabled"),
        *("strong_password_requirement", "user_has_strong_password"),
        *("setup_credential_usage", "stored_credential_usage"),
        "enterprise_has_strong_password_required_for_external_users",
    }
)


def scopes_of(service: Service, operation: Mapping[str, object], call: str = "") -> tuple[str, ...]:
    """The scopes that the document or the service's table names for the operation, in order."""
    for pattern, scopes in service.given:
        if re.fullmatch(pattern, call):
            return tuple(scopes.split())
    if service.said:
        found = re.search(service.said, str(operation.get("description", "")))
        return (
            ()
            if found is None
            else tuple(service.before + one for one in re.findall(r"[A-Za-z_]+[:.][A-Za-z_.:]*[A-Za-z]", found[1]))
        )
    if service.listed:
        return tuple(operation.get(service.listed, ()))
    schemes = service.security.split()
    listed = [one[scheme] for one in operation.get("security") or [] for scheme in schemes if scheme in one]
    names = dict(service.renamed)
    found = tuple(
        dict.fromkeys(names.get(scope, scope) for one in listed for scope in one if scope not in service.ignored)
    )
    if listed and not found and call.startswith("GET "):
        return tuple(service.unscoped.split())
    return found


def rules(name: str, document: Document, older: Sequence[Document] = ()) -> Iterator[Mapping[str, object]]:
    """The rules, in the document's order, also with the parameters of the same calls in `older` documents."""
    service, rest = SERVICES[name], set[str]()
    before = _by_call(service, older)
    operations = (
        (method, template, operation, told, where)
        for method, path, operation, told, where in document.operations()
        for template in service.place_paths(template_of(path))
    )
    for method, template, operation, told, where in operations:
        call = f"{method} {template}"
        scopes = scopes_of(service, operation, call)
        if service.known_scopes is not None:
            scopes = tuple(one for one in scopes if one in service.known_scopes or not service.alternatives)
        if not scopes or not service.has(template, operation.get("tags", [])) or service.leaves_out(call):
            if service.closes_rest:
                closing = [*_closing_rules(service, method, template, secrets_told(document, operation, where))]
                yield from closing
                if method == "GET" and not closing:
                    rest |= set(_parameters(service, call, [(document, operation, told, where)]).get("query", ()))
            continue
        if service.closes_rest and method != "GET":
            continue  # as any other write
        if service.known_scopes is not None:
            if not service.known_scopes >= set(scopes):
                continue
            scopes = tuple(sorted(scopes, key=service.only_reads))
            if method != "GET" and service.only_reads(scopes[0]) and not service.is_search(template):
                continue  # a scope that pages describe as read-only can't write here
            if method != "GET" and service.alternatives:
                writing = tuple(one for one in scopes if not service.only_reads(one))
                scopes = writing or scopes
        rule: dict[str, object] = {"api": service.api, "method": method, "path": template.rstrip("/")}
        if service.posts_reads and method == "GET":
            rule["method"] = ["GET", "POST"]
        rule["scopes"] = sorted(scopes) if service.alternatives else list(scopes[:1])
        if not service.alternatives and scopes[1:]:
            rule["needs"] = sorted(scopes[1:])
        rule |= _parameters(service, call, [(document, operation, told, where), *before.get(call, ())])
        if widening := service.widening_scopes(call):
            rule["inseparable"] = widening
        if call in service.telling or (not service.is_public(call) and secrets_told(document, operation, where)):
            rule["tells_secrets"] = True
        if re.fullmatch(service.exact_calls, call):
            rule["exact"] = True
        parts = service.parts(call)
        yield from (_part(rule, one) for one in parts if one.scope in scopes)
        if not parts:
            yield from _exact_rules(service, rule)
    if service.closes_rest and service.exact is not None:
        every = {"api": service.api, "method": "GET", "path": "/{+}", "scopes": [service.exact[0]]}
        yield every | {"query": sorted(rest), "exact": True}
        yield every | {"scopes": [service.exact[1]], "query": "any"}


def _exact_rules(service: Service, rule: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """The rule; for a scope whose calls have only listed parameters, also one for the scope that may add others."""
    if service.exact is None or rule["scopes"] != [service.exact[0]]:
        yield rule
        return
    yield rule | {"exact": True}
    if service.exact[1]:
        yield rule | {"scopes": [service.exact[1]]}


def _closing_rules(service: Service, method: str, template: str, secrets: set[str]) -> Iterator[Mapping[str, object]]:
    """The rule for an operation whose answer contains a credential, or what only those may see who may also write."""
    call, secrets = f"{method} {template}", secrets - service.harmless
    if method == "DELETE" or (service.is_public(call) and call not in service.telling):
        return
    rule = {"api": service.api, "method": method, "path": template.rstrip("/"), "scopes": [service.widest]}
    if call in service.telling or secrets - service.shared:
        methods = ["POST", "PUT", "PATCH"] if method == "POST" else method
        yield rule | {"method": methods, "tells_secrets": True}
    elif secrets and method == "GET":
        yield rule | {"query": "any"}


def _by_call(service: Service, documents: Sequence[Document]) -> Mapping[str, list[_Operation]]:
    found: dict[str, list[_Operation]] = {}
    for document in documents:
        for method, path, operation, told, where in document.operations():
            for template in service.place_paths(template_of(path)):
                found.setdefault(f"{method} {template}", []).append((document, operation, told, where))
    return found


def _parameters(service: Service, call: str, found: Sequence[_Operation]) -> dict[str, list[str]]:
    """The parameters that a rule names for the query and for the body, in any of the documents."""
    method = call.partition(" ")[0]
    query = {
        one["name"]
        for _, _, told, _ in found
        for one in told
        if one.get("in") == "query" and _QUERY_NAME.fullmatch(one["name"])
    }
    contents = [
        (document, *content)
        for document, operation, told, where in found
        if (content := document.body(operation, told, where)) is not None
    ]
    body = set(_writable_paths(contents, service.omitted_inside))
    if service.is_search(call.partition(" ")[2]):
        body = {one for one in body if not service.shows_more(one)}
    names = {"query": {one for one in query if not service.shows_more(one)}}
    names["body"] = {one for one in body if all(map(MEMBER.fullmatch, one.split("/")))}
    names["query" if method == "GET" else "body"] |= service.newer_parameters(call)
    return {place: sorted(left) for place, one in names.items() if (left := one - service.refused_parameters(call))}


def _writable_paths(contents: Sequence[_Content], omitted: frozenset[str], way: str = "") -> Iterator[str]:
    """The members that a client can send; those of an inner object one by one if it has one of `omitted`."""
    names = dict.fromkeys(name for document, *content in contents for name in _member_names(document, *content))
    for name in names:
        if name in omitted:
            continue
        found = [(document, document.member(*content, name)) for document, *content in contents]
        inner = [(document, *content) for document, content in found if content is not None]
        if any(_has_member(document, content, omitted) for document, *content in inner):
            yield from _writable_paths(inner, omitted, f"{way}{name}/")
        else:
            yield way + name


def _has_member(document: Document, content: tuple[Mapping[str, object], Path], names: frozenset[str]) -> bool:
    """Whether an object has a member with one of these names, at any depth."""
    return bool(names) and any(
        name in names
        or ((inner := document.member(*content, name)) is not None and _has_member(document, inner, names))
        for name in _member_names(document, *content)
    )


def _member_names(document: Document, schema: Mapping[str, object], where: Path) -> Iterator[str]:
    """The members that a client can send in an object, or in those of an array."""
    schema, where = document.follow(schema, where)
    yield from document.writable_members(schema, where)
    for one in (schema, *(document.follow(part, where)[0] for part in schema.get("anyOf", []))):
        if "items" in one:
            yield from _member_names(document, one["items"], where)


def _part(rule: Mapping[str, object], part: Part) -> Mapping[str, object]:
    """The rule for one scope of a call that a parameter divides."""
    names = {
        place: left for place in ("query", "body") if (left := [x for x in rule.get(place, []) if x not in part.where])
    }
    whole = {name: value for name, value in rule.items() if name not in {"query", "body", "needs"}}
    inseparable = sorted({*rule.get("inseparable", ()), *part.inseparable})
    return (
        whole
        | {"scopes": [part.scope]}
        | ({"needs": sorted(part.needs)} if part.needs else {})
        | {"where": dict(part.where)}
        | names
        | ({"inseparable": inseparable} if inseparable else {})
        | ({"exact": True} if part.exact else {})
        | ({"json_fields": list(part.json_fields)} if part.json_fields else {})
    )


def secrets_told(document: Document, operation: Mapping[str, object], where: Path) -> set[str]:
    """The members of the answer, up to three levels deep, that are named like a credential."""
    found = document.answer(operation, where)
    names = set[str]() if found is None else set(_names(document, *found, depth=3))
    return {name for name in names - _NO_SECRET if _SECRET.search(name) is not None}


def _names(document: Document, schema: Mapping[str, object], where: Path, *, depth: int) -> Iterator[str]:
    for name in dict.fromkeys(document.members(schema, where)):
        yield name
        inner = document.member(schema, where, name)
        if depth > 0 and inner is not None:
            yield from _names(document, *inner, depth=depth - 1)
    schema, where = document.follow(schema, where)
    if depth > 0 and "items" in schema:
        inner, where = document.follow(schema["items"], where)
        yield from _names(document, inner, where, depth=depth - ("items" in inner))  # an array may contain itself


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
    """Operation -> the document's answer: its example, or one made from its schema."""
    found: dict[str, object] = {}
    for method, path, operation, _, where in document.operations():
        if f"{method} {path}" in SERVED[name]:
            status, response = next(item for item in operation["responses"].items() if str(item[0]).startswith("2"))
            response, place = document.follow(response, where)
            kind = response["content"]["application/json"]
            template = template_of(path).removeprefix(SERVICES[name].base)
            found[f"{method} {template}"] = {"status": int(status), "body": _body(document, kind, place)}
    return found


def _body(document: Document, kind: Mapping[str, object], where: Path) -> object:
    for one in kind.get("examples", {}).values():
        example, _ = document.follow(one, where)
        return example["value"]
    return kind["example"] if "example" in kind else document.example(kind["schema"], where)


def file_text(name: str, document: Document, *, version: str, older: Sequence[Document] = ()) -> str:
    """The content of the file: one line per rule."""
    source = {
        "generated_by": f"python -m tests.generating.openapi {name}",
        "document": f"{SERVICES[name].repository} {version}",
    }
    lines = ",\n".join(json.dumps(rule) for rule in rules(name, document, older))
    return f'{{"source": {json.dumps(source)},\n"rules": [\n{lines}\n]}}\n'


def _as_text(value: object) -> str:
    """Turn a time, which YAML parses as such, back into text."""
    return value.isoformat() if isinstance(value, date | datetime) else str(value)


def _keep_answers(name: str, document: Document, *, version: str) -> None:
    kept = json.loads(ANSWERS.read_text(encoding="utf-8")) if ANSWERS.exists() else {}
    kept[name] = {"document": f"{SERVICES[name].repository} {version}", "answers": answers(name, document)}
    lines = ",\n".join(f"{json.dumps(one)}: {json.dumps(kept[one], default=_as_text)}" for one in sorted(kept))
    ANSWERS.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def main(name: str, paths: Sequence[Path], *, version: str | None = None, older: Sequence[Path] = ()) -> None:
    """Write the rules of one service, and print the scopes that its provider file lacks."""
    is_library = stripe_library.is_library(paths[0])
    if version is None and is_library:
        version = stripe_library.version_of(paths[0])
    if version is None:
        git = ["git", "-C", str(paths[0].parent), "log", "-1", "--format=%h %cs"]
        version = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    service, document = SERVICES[name], Document(*paths)
    if service.has_contract and not is_library:
        keep_contract(name, [Document(path) for path in paths], version=version)
    if name in SERVED:
        _keep_answers(name, document, version=version)
    if not service.has_rules or (service.compared and not is_library):
        return
    also = [stripe_library.version_of(path) if stripe_library.is_library(path) else path.name for path in older]
    version += f", and parameters of {', '.join(also)}" if also else ""
    target = service.file_of("json")
    target.write_text(
        file_text(name, document, version=version, older=[Document(path) for path in older]), encoding="utf-8"
    )
    made = json.loads(target.read_text(encoding="utf-8"))["rules"]
    needed = {scope for rule in made for scope in (*rule["scopes"], *rule.get("needs", ()))}
    known = service.titles
    print(f"{len(made)} rules in {target.name}; missing scopes: {' '.join(sorted(needed - known.keys())) or 'none'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--version")
    parser.add_argument("--older", nargs="*", type=Path, default=())
    parsed = parser.parse_args()
    main(parsed.name, parsed.paths, version=parsed.version, older=parsed.older)
