"""The Admin API's clients in `clients/`, from its OpenAPI document: `python -m tests.generating.admin_clients`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from server.api.document import openapi_document

ROOT = Path(__file__).parents[2] / "clients"
PYTHON = ROOT / "python/token_vault_client/admin.py"
TYPESCRIPT = ROOT / "typescript/src/admin.ts"
_PLAIN = {"string": ("str", "string"), "integer": ("int", "number"), "number": ("float", "number")}
_PLAIN |= {"boolean": ("bool", "boolean"), "null": ("None", "null")}


def _type(schema: dict[str, Any], *, python: bool) -> str:
    """A schema as a type."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "enum" in schema or "const" in schema:
        values = [f'"{one}"' for one in schema.get("enum", [schema.get("const")])]
        return f"Literal[{', '.join(values)}]" if python else " | ".join(values)
    if "anyOf" in schema:
        return " | ".join(_type(one, python=python) for one in schema["anyOf"])
    match schema.get("type"):
        case "array":
            inner = _type(schema["items"], python=python)
            return f"list[{inner}]" if python else f"Array<{inner}>"
        case "object":
            extra = schema.get("additionalProperties")
            inner = _type(extra if isinstance(extra, dict) else {}, python=python)
            return f"dict[str, {inner}]" if python else f"Record<string, {inner}>"
        case str(name) if name in _PLAIN:
            return _PLAIN[name][0 if python else 1]
        case _:
            return "Any" if python else "unknown"


def _operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, one) for path, by in document["paths"].items() for method, one in by.items()]


def _parts(one: dict[str, Any], place: str) -> list[dict[str, Any]]:
    return [part for part in one["parameters"] if part["in"] == place]


def _answer(one: dict[str, Any], *, python: bool) -> str:
    (status,) = [name for name in one["responses"] if name.startswith("2")]
    content = one["responses"][status].get("content")
    if content is None:
        return "None" if python else "void"
    schema = next(iter(content.values()))["schema"]
    return _type(schema, python=python)


def _body(one: dict[str, Any]) -> str:
    content = one.get("requestBody", {}).get("content", {}).get("application/json")
    return "" if content is None else content["schema"]["$ref"].rpartition("/")[2]


def _camel(name: str) -> str:
    first, *rest = re.split(r"[_-]", name.lower())
    return first + "".join(part.capitalize() for part in rest)


def python_client(document: dict[str, Any]) -> str:
    """The module `token_vault_client.admin`."""
    lines = [
        '"""The Admin API, generated from its OpenAPI document; `admin_base` has what it stands on."""',
        "",
        "from __future__ import annotations",
        "",
        "from typing import Any, Literal, NotRequired, TypedDict",
        "",
        "from token_vault_client.admin_base import AdminBase, path_part",
        "",
    ]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += ["", f"class {name}(TypedDict):", f'    """{schema.get("description", name)}"""', ""]
        required = schema.get("required", [])
        for member, about in schema.get("properties", {}).items():
            hint = _type(about, python=True)
            lines.append(f"    {member}: {hint if member in required else f'NotRequired[{hint}]'}")
        lines.append("")
    lines += ["", "class AdminClient(AdminBase):", '    """Every operation of the Admin API."""', ""]
    for path, method, one in _operations(document):
        lines += _python_method(path, method, one)
    return "\n".join(lines).rstrip() + "\n"


def _python_method(path: str, method: str, one: dict[str, Any]) -> list[str]:
    query, headers, body = _parts(one, "query"), _parts(one, "header"), _body(one)
    taken = ["self", *(f"{part['name']}: {_type(part['schema'], python=True)}" for part in _parts(one, "path"))]
    taken += [f"body: {body}"] if body else []
    named = [_python_keyword(part["name"], _type(part["schema"], python=True), part) for part in query]
    named += [_python_keyword(part["name"].lower().replace("-", "_"), "str", part) for part in headers]
    taken += ["*", *named] if named else []
    place = re.sub(r"\{(\w+)\}", r"{path_part(\1)}", path)
    given = [f'"{method.upper()}"', f'f"{place}"' if "{" in place else f'"{place}"']
    if query:
        given.append("query={" + ", ".join(f'"{part["name"]}": {part["name"]}' for part in query) + "}")
    if body:
        given.append("body={**body}")
    if headers:
        sent = [f'"{part["name"]}": {part["name"].lower().replace("-", "_")}' for part in headers]
        given.append("headers={" + ", ".join(sent) + "}")
    answer = _answer(one, python=True)
    call = f"self._call({', '.join(given)})"
    return [
        f"    def {one['operationId']}({', '.join(taken)}) -> {answer}:",
        f'        """{one["summary"]}."""',
        f"        {'' if answer == 'None' else 'return '}{call}",
        "",
    ]


def _python_keyword(name: str, hint: str, part: dict[str, Any]) -> str:
    return f"{name}: {hint}" if part["required"] else f"{name}: {hint} | None = None"


def _typescript_options(name: str, members: dict[str, str], parts: list[dict[str, Any]]) -> list[str]:
    """The argument with these members, one for each of the parts; empty if there are none."""
    if not parts:
        return []
    needed = [part["required"] for part in parts]
    shown = "; ".join(
        f"{member}{'' if is_needed else '?'}: {hint}"
        for (member, hint), is_needed in zip(members.items(), needed, strict=True)
    )
    return [f"{name}: {{ {shown} }}{'' if any(needed) else ' = {}'}"]


def typescript_client(document: dict[str, Any]) -> str:
    """The module `admin.ts`."""
    lines = [
        "// The Admin API, generated from its OpenAPI document; `admin-base.ts` has what it stands on.",
        'import { AdminBase, pathPart } from "./admin-base.js";',
        "",
    ]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += [f"/** {schema.get('description', name)} */", f"export interface {name} {{"]
        required = schema.get("required", [])
        for member, about in schema.get("properties", {}).items():
            lines.append(f"  {member}{'' if member in required else '?'}: {_type(about, python=False)};")
        lines += ["}", ""]
    lines += ["/** Every operation of the Admin API. */", "export class AdminClient extends AdminBase {"]
    for path, method, one in _operations(document):
        query, headers, body = _parts(one, "query"), _parts(one, "header"), _body(one)
        taken = [f"{_camel(part['name'])}: {_type(part['schema'], python=False)}" for part in _parts(one, "path")]
        taken += [f"body: {body}"] if body else []
        members = {part["name"]: _type(part["schema"], python=False) for part in query}
        taken += _typescript_options("query", members, query)
        taken += _typescript_options("headers", {f'"{part["name"]}"': "string" for part in headers}, headers)
        place = re.sub(r"\{(\w+)\}", lambda found: "${pathPart(" + _camel(found[1]) + ")}", path)
        given = [f'"{method.upper()}"', f"`{place}`"]
        options = [*(["query"] if query else []), *(["body"] if body else []), *(["headers"] if headers else [])]
        given += [f"{{ {', '.join(options)} }}"] if options else []
        answer = _answer(one, python=False)
        lines += [
            f"  /** {one['summary']}. */",
            f"  async {_camel(one['operationId'])}({', '.join(taken)}): Promise<{answer}> {{",
            f"    {'await' if answer == 'void' else 'return'} this.call({', '.join(given)})"
            + (";" if answer == "void" else f" as Promise<{answer}>;"),
            "  }",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n}\n"


def client_modules() -> dict[Path, str]:
    """Both modules, as they should be."""
    document: dict[str, Any] = openapi_document("https://vault.example")
    return {PYTHON: _format(python_client(document)), TYPESCRIPT: typescript_client(document)}


def _format(module: str) -> str:
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(PYTHON), "-"]
    return subprocess.run(command, input=module, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    for path, content in client_modules().items():
        path.write_text(content, encoding="utf-8")
