"""The documentation's tables that are generated from code, between `<!-- generated: NAME -->` and `<!-- end -->`.

`reference_pages` writes them. Endpoints come from the routes and the first paragraph of each handler, errors from
`server.commands.errors.texts`, packages from pyproject.toml and the comments there, folders and scenarios from their
docstrings, the Admin API from its OpenAPI document, metrics from their descriptions, the figures of limits from what
enforces them, and the fields of tool and provider files from their schemas' texts.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, Final, cast

from starlette.routing import BaseRoute, Route

import providers
import server
import server.auth0
import server.oauth
import server.portal
import server.signals
import vault
from providers.definitions.field_texts import CREDENTIAL, PROVIDER_BY_TOPIC, RULE
from providers.tools.builtin import builtin_tools
from providers.tools.file_schema import ARGUMENT, OUTPUT, PRESENTATION, RESULT, TOOL
from server import errors
from server.api.document import SCOPE_TEXTS, openapi_document
from server.auth0.problems import MeRoute
from server.commands.errors import texts
from server.mcp.offer.connections_spec import SPEC
from server.mcp.offer.tool_list import size_of
from server.oauth import rules
from server.oauth.wire import Endpoint
from server.proxy.remote_programs import routes as programs
from server.remote import documents
from server.settings import Settings
from server.telemetry.gauges import GAUGES, READ_COUNTS
from server.telemetry.meters import COUNTS, TIMES
from tests.chaos.__main__ import groups
from tests.generating import alerts, limits, plan, tested_against
from tests.generating.documentation import PAGES, ROOT, plain
from tests.generating.shipped_tools import shipped_tools

_MARKED: Final = re.compile(r"(?s)(<!-- generated: ([a-z0-9 ]+) -->\n).*?(<!-- end -->)")
_TYPED: Final = {
    "limits of a process",
    "limits in the database",
    "sizes of tools",
    "tested against",
}  # these are typed by hand
_LINKS: Final = {
    "tool set": "../guides/tools.md#offer-fewer-tools",
    "The rule": "../operate/policy.md",
    "repeated": "../../SECURITY.md#repeated-refresh-tokens",
    "An admin must review it": "../guides/mcp-servers.md",
    "Wait as long as the text says": "../guides/tools.md#rate-limits-and-retries",
    "too large to check": "../operate/limits.md",
    "Register the page's origin": "../guides/token-exchange.md#pages-and-introspection",
    "there are several": "../guides/token-exchange.md#when-it-does-not-work",
    "Auth0's interface": "../guides/auth0.md",
    "Admin API": "../operate/admin-api.md",
    "agents that act for themselves": "../operate/enterprise.md#let-agents-act-for-themselves",
    "a company's assertion": "../operate/enterprise.md",
    "token exchange": "../guides/token-exchange.md",
    "the device grant": "../guides/register.md#without-a-browser",
    "CIBA Core 1.0": "../guides/token-exchange.md#ask-first",
    "receipts": "../operate/administration.md#revocations",
    "MCP server": "../guides/mcp-servers.md",
}


def pages() -> list[str]:
    """The pages with such parts, relative to the root of the repository."""
    return [page.relative_to(ROOT).as_posix() for page in PAGES if _MARKED.search(page.read_text(encoding="utf-8"))]


def fill_in_parts(text: str) -> str:
    """The page with its generated parts up to date. An unknown part is a KeyError."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n{found[3]}", text)


def by_hand(text: str) -> str:
    """The page without the parts that are generated from code."""
    return _MARKED.sub(lambda found: found[0] if found[2] in _TYPED else "", text)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(head)
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _add_links(text: str) -> str:
    """The text with links to the pages that say more."""
    for words, target in _LINKS.items():
        text = re.sub(rf"(?<![\[`])\b{re.escape(words)}\b", f"[{words}]({target})", text, count=1)
    return text


def _codes(table: Mapping[str, str]) -> str:
    rows = ((_quote(codes.split(", ")), _add_links(text)) for codes, text in table.items())
    return _table(("Code", "Meaning and fix"), rows)


def _quote(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _proxy_codes() -> str:
    rows: list[tuple[str, str, str]] = []
    for codes, text in texts.PROXY.items():
        names = codes.split(", ")
        (status,) = {errors.status_of(name) for name in names}
        rows.append((_quote(names), str(status), _add_links(text)))
    return _table(("Code", "Status", "Meaning and fix"), rows)


def _rpc_codes() -> str:
    return _table(("Code", "Meaning"), texts.RPC.items())


def _no_vault() -> Any:
    """The parts of a deployment that are needed to create the routes."""
    return SimpleNamespace(
        settings=Settings.model_validate({"auth0": {"enabled": True}}),
        public_url="https://vault",
        issuer="https://vault",
    )


def _first_paragraph(function: Callable[..., Any]) -> str:
    """The first paragraph of a handler's documentation."""
    while hasattr(function, "func"):
        function = cast("Any", function).func
    about = inspect.getdoc(inspect.unwrap(function))
    assert about, f"{function} says nothing"
    return " ".join(about.partition("\n\n")[0].split())


def _answers(route: Route) -> dict[str, tuple[Callable[..., Any], str]]:
    """The handler by method, and what the path adds to its description."""
    endpoint = cast("Any", route.endpoint)
    if isinstance(endpoint, Endpoint):
        any_page = " Any page." if endpoint.is_open_to_pages else ""
        return {method: (answer, any_page) for method, answer in endpoint.handlers.items() if method != "HEAD"}
    owner = getattr(endpoint, "__self__", None)
    if isinstance(owner, MeRoute):
        return {method: (answer, f" A token with `{scope}`.") for method, (scope, answer) in owner.handlers.items()}
    by_method = (
        inspect.getclosurevars(endpoint).nonlocals.get("pages_by_method") if inspect.isfunction(endpoint) else None
    )
    if by_method is not None:
        return {
            method: (answer, "" if hasattr(answer, "__wrapped__") else " Anyone.")
            for method, answer in by_method.items()
        }
    return {method: (endpoint, "") for method in sorted(route.methods or ()) if method != "HEAD"}


def _rows(routes: Iterable[Route]) -> Iterator[tuple[str, str, str]]:
    """Each path once, with its methods; paths with the same handler share a row."""
    rows: dict[tuple[str, str], list[str]] = {}
    for route in routes:
        answers = _answers(route)
        by_text: dict[str, list[str]] = {}
        for method, (answer, _) in answers.items():
            by_text.setdefault(_first_paragraph(answer), []).append(method)
        said = list(by_text)
        if len(said) > 1:
            said = [f"{', '.join(by_text[one])}: {one}" for one in said]
        said += [more.strip() for more in dict.fromkeys(more for _, more in answers.values()) if more]
        paths = rows.setdefault((", ".join(answers), " ".join(said)), [])
        if plain(route.path) not in paths:
            paths.append(plain(route.path))
    for (methods, said), paths in rows.items():
        yield _quote(paths), methods, _add_links(said)


def _endpoints(routes: Iterable[BaseRoute]) -> str:
    return _table(("Path", "Methods", "What it does"), _rows(one for one in routes if isinstance(one, Route)))


def _pages(*, of_admins: bool) -> str:
    made = (*server.portal.routes(_no_vault()), *documents.routes(_no_vault()))
    routes = (one for one in made if isinstance(one, Route))
    return _endpoints(one for one in routes if one.path.startswith("/administration") == of_admins)


def _fields(texts: Mapping[str, str]) -> str:
    """A list with an entry for each field; further lines of a text are nested entries."""
    nested = {names: text.replace("\n", "\n  - ") for names, text in texts.items()}
    return "".join(f"- {_quote(names.split(', '))}: {text}\n" for names, text in nested.items())


def _provider_fields() -> str:
    return "\n".join(f"## {topic}\n\n{_fields(texts)}" for topic, texts in PROVIDER_BY_TOPIC.items())


def _folders() -> str:
    """The packages of the product, each with the first line of its docstring."""
    lines: list[str] = []
    for package in (vault, providers, server):
        found = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
        lines += [f"- `{one.name.replace('.', '/')}/`: {_first_line(one.name)}\n" for one in found if one.ispkg]
    return "".join(lines)


def _first_line(package: str) -> str:
    about = importlib.import_module(package).__doc__ or ""
    assert about, f"{package} says nothing"
    first = about.partition("\n")[0]
    assert first.endswith("."), f"{package}: the first line is cut off"
    return first


def _scenarios() -> str:
    """The scenarios of `make chaos`, with the first line of each module."""
    return "".join(f"- `{name}`: {_first_line(module.__name__)}\n" for name, module in groups().items())


def _metrics() -> str:
    """Every metric under its Prometheus name."""
    timed = {name for name, _ in TIMES.values()}
    return "".join(
        f"- `{_in_prometheus(name, unit)}`{' (histogram)' if name in timed else ''}: {text}\n"
        for name, unit, text in _all_metrics()
    )


def metrics_in_prometheus() -> frozenset[str]:
    """The names of all metrics on the page for Prometheus; those of histograms without what is appended to them."""
    return frozenset(_in_prometheus(name, unit) for name, unit, _ in _all_metrics())


def _all_metrics() -> Iterator[tuple[str, str, str]]:
    """Name, what Prometheus appends to it, and description."""
    yield from ((name, "_total", text) for name, text in COUNTS.items())
    yield from ((name, "_seconds", text) for name, text in TIMES.values())
    yield from ((made.name, {"s": "_seconds", "By": "_bytes"}.get(made.unit, ""), made.text) for made in GAUGES)
    yield from ((name, "_total", text) for name, text in READ_COUNTS.items())


def _in_prometheus(name: str, unit: str) -> str:
    return name.replace(".", "_") + unit


def _auth0_sdks() -> str:
    """The releases of Auth0's SDKs that the suite installs."""
    pins = "".join(one.read_text(encoding="utf-8") for one in sorted((ROOT / "tests/sdks").glob("*.in")))
    python = re.findall(r"(?m)^((?:[a-z-]*auth0|okta)[a-z0-9-]*)==(\S+)", pins)
    scripts: dict[str, str] = {}
    for folder in ("tests/node", "tests/node/auth0"):
        wanted = json.loads((ROOT / folder / "package.json").read_text(encoding="utf-8"))
        scripts |= {name: one for name, one in wanted["dependencies"].items() if re.search("auth0|oauth2-jwt", name)}
    lines = (("Python", sorted(set(python))), ("JavaScript", sorted(scripts.items())))
    return "".join(f"- {kind}: {', '.join(f'{name} {release}' for name, release in found)}\n" for kind, found in lines)


def _signals() -> str:
    return _endpoints(server.signals.routes(_no_vault()))


def _index() -> str:
    """The navigation of the site (mkdocs.yml), as links from docs/."""
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    moved = {target: f"../{source}" for source, target in _pages_of_outside_files().items()}
    lines: list[str] = []
    for line in site.partition("\nnav:\n")[2].splitlines():
        title, _, page = line.strip().removeprefix("- ").partition(": ")
        if title.endswith(".md"):
            title, page = "Overview", title
        indent = " " * (len(line) - len(line.lstrip()) - 2)
        if page and page not in {"index.md", "pages.md"}:
            lines.append(f"{indent}- [{title}]({moved.get(page, page)})\n")
        elif not page:
            lines.append(f"{indent}- {title.rstrip(':')}\n")
    return "".join(lines)


def _guides() -> str:
    """The guides of the index, as links relative to the root of the repository."""
    within = _index().partition("\n- Guides\n")[2].partition("\n- ")[0]
    found = re.findall(r"\[([^\]]+)\]\((guides/[^)]+)\)", within)
    names = {"guides/clients-for-programs.md": "Use client libraries", "guides/examples/README.md": "Examples"}
    return "".join(f"- [{names.get(page, title)}](docs/{page})\n" for title, page in found)


def _pages_of_outside_files() -> dict[str, str]:
    """Files outside docs/ by their path, with their pages on the site."""
    hook = ast.parse((ROOT / "deploy/site/hook.py").read_text(encoding="utf-8"))
    (found,) = (
        one.value
        for one in hook.body
        if isinstance(one, ast.AnnAssign) and ast.unparse(one.target) == "OUTSIDE" and one.value is not None
    )
    moved: dict[str, str] = ast.literal_eval(found)
    return moved


def _decisions() -> str:
    """The decision records, by title."""
    lines: list[str] = []
    for page in sorted((ROOT / "docs/development/decisions").glob("0*.md")):
        title = page.read_text(encoding="utf-8").partition("\n")[0].partition(". ")[2]
        lines.append(f"- [{title}]({page.name})\n")
    return "".join(lines)


def _token_scopes() -> Iterator[tuple[str, str]]:
    for name, text in rules.SCOPE_MEANINGS.items():
        yield f"`{name}`", _add_links(text)


def _admin_operations() -> str:
    """Every operation in the Admin API's OpenAPI document: path and method, the narrowest scope, and what it does."""
    document: Any = openapi_document("https://vault")
    rows = (
        (f"`{path.removeprefix('/admin/v1')}`", method.upper(), _narrowest(one), f"{one['summary']}.")
        for path, methods in document["paths"].items()
        for method, one in methods.items()
    )
    return _table(("Path", "Method", "Scope", "What it does"), rows)


def _narrowest(operation: Any) -> str:
    scopes = operation["security"][0].get("oauth", ())
    return f"`{scopes[0]}`" if scopes else ""


def _sizes_of_tools() -> str:
    """How much a model reads about the tools that are always listed, and about all tools."""
    every = [*builtin_tools(), *shipped_tools().values(), SPEC]
    listed = [spec for spec in every if spec.provider in {"slack", "google", SPEC.provider}]
    return (
        f"The {len(listed)} that are always listed are about {_about(size_of(listed))} characters of names, "
        f"descriptions, and arguments; with every provider set up, {len(every)} are about {_about(size_of(every))}.\n"
    )


def _about(count: int) -> str:
    """The count rounded to two digits, so that the page doesn't change with each word of a description."""
    return f"{round(count, 2 - len(str(count))):,}"


def _packages() -> str:
    """Every dependency with its purpose and the modules that its comment in pyproject.toml names."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("\n[project.scripts]")[0]
    found: dict[str, tuple[list[str], list[str]]] = {}
    for name, where, reason in re.findall(r'(?m)^ +"([\w-]+)[^"]*",  # ([^:\n]+): (.*)$', project):
        modules, reasons = found.setdefault(name, ([], []))
        modules += where.split(", ")
        reasons.append(reason)
    rows = ((f"`{name}`", _quote(where), "; ".join(why)) for name, (where, why) in sorted(found.items()))
    return _table(("Package", "Where", "For"), rows)


PARTS: Final[dict[str, Callable[[], str]]] = {
    "packages": _packages,
    "admin operations": _admin_operations,
    "admin scopes": lambda: _fields(SCOPE_TEXTS),
    "auth0 sdks": _auth0_sdks,
    "endpoints of signals": _signals,
    "folders": _folders,
    "guides": _guides,
    "index": _index,
    "scenarios": _scenarios,
    "limits of a process": lambda: limits.markdown_list(limits.IN_EACH_PROCESS),
    "limits in the database": lambda: limits.markdown_list(limits.IN_THE_DATABASE),
    "metrics": _metrics,
    "token scopes": lambda: _table(("Token scope", "Meaning"), _token_scopes()),
    "sizes of tools": _sizes_of_tools,
    "plan": plan.plan,
    "runbook": alerts.runbook,
    "tested against": tested_against.markdown_list,
    "tools that emulate lacks": tested_against.lacking_tools,
    "decisions": _decisions,
    "fields of a provider file": _provider_fields,
    "fields of a rule": lambda: _fields(RULE),
    "fields of a credential": lambda: _fields(CREDENTIAL),
    "fields of tools": lambda: _fields(TOOL),
    "fields of arguments": lambda: _fields(ARGUMENT),
    "fields of outputs": lambda: _fields(OUTPUT),
    "fields of results": lambda: _fields(RESULT),
    "fields of presentations": lambda: _fields(PRESENTATION),
    "errors of the vault": lambda: _codes(texts.VAULT),
    "errors of tools": lambda: _codes(texts.TOOLS),
    "errors of the proxy": _proxy_codes,
    "errors of run": lambda: _codes(texts.RUN),
    "errors of the admin api": lambda: _codes(texts.ADMIN),
    "errors of oauth": lambda: _codes(texts.OAUTH),
    "errors of json rpc": _rpc_codes,
    "endpoints of oauth": lambda: _endpoints(server.oauth.routes(_no_vault())),
    "endpoints of programs": lambda: _endpoints(programs(_no_vault())),
    "endpoints of auth0": lambda: _endpoints(server.auth0.routes(_no_vault())),
    "pages": lambda: _pages(of_admins=False),
    "pages of admins": lambda: _pages(of_admins=True),
}
