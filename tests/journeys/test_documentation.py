"""The documentation and the product agree, in both directions."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

import server
import server.auth0
import server.mcp.transports
import server.oauth
import server.portal
import server.proxy.remote_programs
import server.signals
from providers.api import api
from providers.api.api import ToolRefused
from providers.definitions.catalog import schema
from providers.definitions.field_texts import PROVIDER, RULE, field_texts
from providers.definitions.model import Provider, Rule
from providers.outbound.json_values import is_object
from providers.tools.file_schema import tool_file_schema
from server import errors
from server.mcp.tool_answers import META_KEY
from server.remote import documents
from server.settings import OTHER_VARIABLES, Settings, load_settings
from tests.generating import reference_pages
from tests.generating.documentation import (
    COMMON,
    DOCS,
    PAGES,
    ROOT,
    anchor,
    calls,
    commands,
    import_name,
    imported_in,
    leaves,
    lines_to_type,
    modules,
    only,
    options_of,
    package_names,
    package_rows,
    plain,
    quoted_words,
    section,
    sections,
    subclasses,
    written_codes,
)
from tests.generating.handwritten import words_by_page
from tests.support.harness import running_vault
from vault.refresh import rotation
from vault.refusals import VaultError
from vault.storage import postgres_hosts

MOST_WORDS = 24_500  # written by hand
SIMULATED = {"docs/beds.md", "docs/guide.md"}  # these are in the simulator's repositories and in examples


@pytest.mark.parametrize("name", reference_pages.PAGES)
def test_a_generated_reference_page_is_up_to_date(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text == reference_pages.PAGES[name](text), "write it again: python -m tests.generating.reference_pages"


def test_every_field_of_a_provider_file_says_what_it_means() -> None:
    for model, texts in ((Provider, PROVIDER), (Rule, RULE)):
        described = {name for name, _ in field_texts(texts)}
        assert {field.alias or name for name, field in model.model_fields.items()} <= described | {"live_tested"}
    known = schema()["properties"]
    assert known["rotation"]["description"].startswith("`mode`: what happens to a used refresh token")


def test_every_field_of_a_tool_file_says_what_it_means() -> None:
    described = tool_file_schema()["$defs"]
    assert is_object(described)
    for part in ("Tool", "Argument", "Output", "Result", "Presentation"):
        model = described[part]
        assert is_object(model)
        fields = model["properties"]
        assert is_object(fields)
        for name, field in fields.items():
            assert is_object(field)
            assert field.get("description"), f"{part}: {name}"


def test_the_pages_stay_short_enough_to_find_something() -> None:
    counted = words_by_page()
    assert len(counted) > 50
    assert sum(counted.values()) <= MOST_WORDS, "say each fact once: python -m tests.generating.handwritten"


def test_every_setting_and_every_option_says_what_it_means() -> None:
    assert [path for path, field in leaves(Settings) if not field.description] == []
    params = [(words, one) for words, command in commands().items() for one in command.params]
    assert [f"{words} {one.name}" for words, one in params if not one.help] == []


def test_settings_can_be_given_by_the_variables_that_the_page_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_VAULT_SERVER__ALLOWED_HOSTS", '["vault.internal:8765"]')
    monkeypatch.setenv("TOKEN_VAULT_PROVIDERS__SLACK__CLIENT_ID", "from the environment")
    monkeypatch.setenv("TOKEN_VAULT_SIGN_IN__OPENID__CORP__ISSUER", "https://id.example.com")
    monkeypatch.setenv("TOKEN_VAULT_SIGN_IN__OPENID__CORP__CLIENT_ID", "vault")
    settings = load_settings()
    assert settings.server.allowed_hosts == ("vault.internal:8765",)
    assert settings.providers["slack"].client_id == "from the environment"
    assert settings.sign_in.openid["corp"].issuer == "https://id.example.com"


def test_variables_that_are_no_settings_are_described() -> None:
    rows = section(DOCS / "reference/settings.md", "Settings").rows
    assert {only(row["Variable"]) for row in rows} == OTHER_VARIABLES


def test_the_options_that_every_command_has_are_described_once() -> None:
    rows = section(DOCS / "reference/commands.md", "Commands").rows
    assert {only(row["Option of every command"]) for row in rows} == COMMON
    assert all(set(options_of(command)) >= COMMON for command in commands().values())


def test_command_lines_in_the_documentation_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    groups = {words.split()[0] for words in commands()}
    for where, (program, *words) in lines_to_type():
        if program == "make":
            assert all(word in targets for word in words if "=" not in word), where
            continue
        ours = words[: words.index("--")] if "--" in words else words  # the rest is for another program
        names = [word for word in ours if not word.startswith("-")]
        if not names or names[0].isupper():
            continue
        assert names[0] in groups, where
        command = next((one for n in (3, 2, 1) if (one := commands().get(" ".join(names[:n])))), None)
        assert command is not None, where
        assert {word for word in ours if word.startswith("--")} <= set(options_of(command)), where


def test_the_client_configuration_starts_what_exists_and_no_two_vaults_share_a_port() -> None:
    entries = json.loads((ROOT / "mcp.json").read_text(encoding="utf-8"))["mcpServers"]
    assert {entry["type"] for entry in entries.values()} == {"stdio", "http", "sse"}
    ports: dict[int, bool] = {}
    for name, entry in entries.items():
        if entry["type"] != "stdio":
            assert (
                entry["url"]
                == f"http://localhost:{Settings().server.port}/{'mcp' if entry['type'] == 'http' else 'sse'}"
            )
            continue
        shell, script, program, words, *options = entry["args"]
        assert (entry["command"], shell, program) == ("/bin/sh", "-c", "token-vault")
        assert "$HOME/token-vault/bin" in script  # where the README installs it
        assert {word for word in options if word.startswith("--")} <= set(options_of(commands()[words])), name
        port = int(entry.get("env", {}).get("TOKEN_VAULT_SERVER__PORT", Settings().server.port))
        is_sandbox = "--sandbox" in options
        for taken in (port, port + 1) if is_sandbox else (port,):
            assert ports.setdefault(taken, is_sandbox) == is_sandbox, name
    assert True in ports.values()


async def test_every_route_is_described_with_its_methods(tmp_path: Path) -> None:
    page = DOCS / "reference/endpoints.md"
    written = {
        title: {
            path: set(row["Methods"].split(", "))
            for row in section(page, title).rows
            if "Path" in row
            for path in quoted_words(row["Path"])
        }
        for title in ("MCP", "Authorization server", "Signals", "Programs elsewhere", "Auth0", "Pages")
    }
    async with running_vault(tmp_path / "data", overrides={"auth0": {"enabled": True}}) as running:
        groups: dict[str, Callable[..., list[Any]]] = {
            "MCP": server.mcp.transports.routes,
            "Authorization server": server.oauth.routes,
            "Signals": server.signals.routes,
            "Programs elsewhere": server.proxy.remote_programs.routes,
            "Auth0": server.auth0.routes,
            "Pages": lambda running: [*server.portal.routes(running), *documents.routes(running)],
        }
        real = {
            title: [one for one in make(running.deployment) if isinstance(one, Route)] for title, make in groups.items()
        }
        for title, routes in real.items():
            assert {plain(one.path) for one in routes} == set(written[title]), title
        for route in real["Pages"]:
            assert (route.methods or set()) - {"HEAD"} == written["Pages"][plain(route.path)], route.path
        async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=30) as http:
            for path, methods in written["Authorization server"].items():
                answer = await http.request("PATCH", path.replace("{client_id}", "x"))
                assert answer.status_code == 405
                assert set(re.split(", *", answer.headers["allow"])) - {"HEAD", "OPTIONS"} == methods, path


def test_the_proxy_is_described_with_its_methods() -> None:
    from server.http.guards import PROXY
    from server.proxy.endpoint import METHODS

    rows = section(DOCS / "reference/endpoints.md", "Proxy").rows
    written = {path: set(row["Methods"].split(", ")) for row in rows for path in quoted_words(row["Path"])}
    assert {path.partition("{")[0] for path in written} == set(PROXY)
    assert set[str]().union(*written.values()) == set(METHODS)


def test_token_scopes_are_described() -> None:
    from server.oauth.rules import SCOPES

    rows = section(DOCS / "reference/endpoints.md", "Authorization server").rows
    assert {only(row["Token scope"]) for row in rows if "Token scope" in row} == SCOPES


def test_the_guide_names_the_facts_that_an_answer_carries() -> None:
    assert META_KEY in section(DOCS / "guides/tools.md", "What an answer contains").text


def test_every_refusal_of_the_vault_is_described() -> None:
    modules()
    raised = {kind.code for kind in subclasses(VaultError)} - {VaultError.code}  # the base class, which nobody raises
    assert written_codes("Refusals of the vault") == raised


def test_every_refusal_of_a_tool_is_described() -> None:
    own = {kind.code for kind in subclasses(ToolRefused)} - {ToolRefused.code}  # that one is the provider's own code
    for call in calls("server.mcp.tools", "_Outcome"):
        given = [*call.args[2:3], *(one.value for one in call.keywords if one.arg == "code")]
        own |= {str(one.value) for one in given if isinstance(one, ast.Constant)}
    assert written_codes("Refusals of tools") == own


def test_every_refusal_of_the_proxy_is_described_with_its_status() -> None:
    own: set[str] = set()
    for module in ("wire", "refusals", "endpoint"):
        for call in calls(f"server.proxy.{module}", "ProxyRefused"):
            own |= {str(one.value) for one in call.args[:1] if isinstance(one, ast.Constant)}
    rows = section(DOCS / "reference/errors.md", "Refusals of the proxy").rows
    written = {code: int(row["Status"]) for row in rows for code in quoted_words(row["Code"])}
    assert written == {code: errors.status_of(code) for code in own}


def test_every_refusal_of_run_is_described() -> None:
    own = {"vault_unreachable"}
    for module in ("proxy.remote_programs", "proxy.program_access", "programs.wire"):
        for name in ("ProxyRefused", "_signed_out"):
            for call in calls(f"server.{module}", name):
                own |= {str(one.value) for one in call.args[:1] if isinstance(one, ast.Constant)}
    assert written_codes("Refusals of `run`") == own


def test_every_oauth_error_is_described() -> None:
    assert written_codes("OAuth errors") == {kind.oauth_error for kind in errors.KINDS.values()} - {""}


def test_the_table_of_kinds_has_what_the_sources_name_and_nothing_else() -> None:
    named = {kind for wording in errors.TABLE.values() for kind in (wording.kind, wording.proxied, wording.paged)}
    named |= {errors.UNLISTED.kind, ""}
    for path in (ROOT / "server").rglob("*.py"):
        if path.name == "errors.py":
            continue
        source = path.read_text(encoding="utf-8")
        may_name = any(one in source for one in ("OAuthError", "status_of", *errors.KINDS))
        for node in ast.walk(ast.parse(source)) if may_name else ():
            if isinstance(node, ast.Constant) and node.value in errors.KINDS:
                named.add(str(node.value))
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"OAuthError", "status_of"}:
                kinds = [str(one.value) for one in node.args[:1] if isinstance(one, ast.Constant)]
                assert set(kinds) <= set(errors.KINDS), path
    put_together = {"request_uri_not_supported"}
    assert named - {""} == set(errors.KINDS) - put_together


def test_the_table_of_packages_is_the_list_of_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    product = package_names(project["project"]["dependencies"])
    product |= {name for lines in project["project"]["optional-dependencies"].values() for name in package_names(lines)}
    named = set(package_rows())
    assert named - {"httpx"} == product
    assert "httpx" in package_names(project["dependency-groups"]["dev"])


def test_every_package_is_used_where_the_table_says() -> None:
    for package, paths in package_rows().items():
        assert paths, package
        for path in paths:
            assert import_name(package) in imported_in(ROOT / path), f"{package}: {path}"


def test_plain_httpx_stays_out_of_the_product() -> None:
    for folder in ("server", "vault", "providers"):
        for path in (ROOT / folder).rglob("*.py"):
            is_named = re.search(r"httpx(?!2)", path.read_text(encoding="utf-8")) is not None
            assert not is_named or "httpx" not in imported_in(path), path


def test_every_relative_link_leads_somewhere() -> None:
    for path in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            file, _, part = target.partition("#")
            found = (path.parent / file).resolve() if file else path
            assert found.is_file(), f"{path.relative_to(ROOT)}: {target}"
            if part:
                assert part in {anchor(one.title) for one in sections(found)}, f"{path.relative_to(ROOT)}: {target}"


def test_the_waiting_times_that_pages_promise_are_those_of_the_code() -> None:
    tools = (DOCS / "guides" / "tools.md").read_text(encoding="utf-8")
    (promised,) = re.findall(r"an answer within (\d+) seconds", tools)
    assert api.BUDGET < rotation.PATIENCE == float(promised), "a tool waits for a refresh, or calls within its budget"
    database = (DOCS / "operate" / "postgresql.md").read_text(encoding="utf-8")
    (promised,) = re.findall(r"connection\s+attempt \((\d+) s\)", database)
    assert float(promised) == postgres_hosts.CONNECT_TIMEOUT


def test_every_file_that_the_documentation_names_exists() -> None:
    for path in PAGES:
        for name in re.findall(r"`((?:server|vault|providers|tests|docs)/[\w./]+)`", path.read_text(encoding="utf-8")):
            is_pattern = "NNNN" in name or "NAME" in name
            assert is_pattern or (ROOT / name).exists(), f"{path.name}: {name}"


def test_every_page_that_the_sources_name_exists() -> None:
    files = [*ROOT.glob("*"), *(ROOT / ".github").rglob("*"), *(ROOT / ".ci").rglob("*")]
    for folder in ("server", "vault", "providers", "tests"):
        files += (ROOT / folder).rglob("*.py")
    for path in files:
        if path.is_file() and path.suffix in {"", ".md", ".py", ".toml", ".txt", ".yml"}:
            for name in re.findall(r"(?<![\w./-])docs/[a-z-]+(?:/[\w-]+)*\.md", path.read_text(encoding="utf-8")):
                assert name in SIMULATED or (ROOT / name).is_file(), f"{path.relative_to(ROOT)}: {name}"


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    for path in DOCS.rglob("*.md"):
        name = path.relative_to(DOCS).as_posix()
        if path.parent.name not in {"examples", "decisions"} and name != "README.md":
            assert f"]({name})" in index, name


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    shown = set(re.findall(r"[\w/.-]+\.md$", site, flags=re.MULTILINE))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - {"README.md"}  # shown as pages.md
    assert pages - shown == set(), "add them to nav in mkdocs.yml"
