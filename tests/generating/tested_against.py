"""The parts of docs/evidence/tested-against.md: what stood in for each provider, and which tests used it.

Versions, `emulate`'s providers, and the tools that it lacks come from what the tests install and declare; a path that
doesn't exist is an error.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from collections.abc import Iterator
from typing import Any, Final

from tests.generating import github
from tests.generating.documentation import ROOT
from tests.support.foreign import emulated_services

_TOOLSET: Final = "tests/providers/tools/test_toolset.py"
_FOREIGN: Final = "tests/journeys/foreign"
_OWN: Final = "an operator's file"


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Providers, what stood in for them, what was tried, and the tests."""
    yield (
        "`slack`, `google`",
        "the sandbox (`providers/simulator`), written from their documentation",
        "every tool, whole life of a connection, faults",
        _paths(
            "tests/providers/tools/test_providers_tools.py",
            _TOOLSET,
            "tests/providers/simulator/test_providers_simulator.py",
            "tests/mcp/test_mcp_journeys.py",
        ),
    )
    yield (
        "`github`, `microsoft`, `notion`, `linear`, `atlassian`, `hubspot`, `salesforce`, `facebook`",
        "the simulator's doubles",
        "every tool",
        _paths(_TOOLSET),
    )
    yield (
        "`google`, `github`",
        (
            f"published descriptions, {_python('google-api-python-client')} (Calendar, Drive, Gmail), "
            f"`@octokit/openapi` {_octokit()}"
        ),
        "every simulated answer: types and members",
        _paths("tests/providers/simulator/test_simulator_answers.py"),
    )
    yield (
        "`asana`, `digitalocean`, `figma`, `pagerduty`",
        "OpenAPI documents from their own repositories",
        "request rules; every tool, by the documents' examples or schemas",
        _paths("tests/providers/test_openapi_rules.py", _TOOLSET),
    )
    yield (
        _names(emulated_services.NAMES),
        f"{_node('emulate')} by Vercel Labs",
        "connecting, refresh, disconnecting, tools",
        _paths(f"{_FOREIGN}/test_foreign_services.py"),
    )
    yield (
        "every file",
        "the simulator, in a mode for each service",
        "whole life; a wrong value for each field",
        _paths("tests/providers/test_provider_check.py", "tests/providers/test_provider_fields.py"),
    )
    yield (
        _OWN,
        f"{_node('oidc-provider')} by Filip Skokan (rotation; reuse ends the grant)",
        "whole life, killed processes, a stolen token",
        _paths(f"{_FOREIGN}/test_foreign_provider.py"),
    )
    yield (
        _OWN,
        f"{_python('django-oauth-toolkit')} (a narrower refresh shrinks the grant)",
        "whole life, a stolen token; the grant never shrinks",
        _paths(f"{_FOREIGN}/test_foreign_django.py"),
    )
    yield (
        "`aws`",
        "moto 5.2.5 (2026-11-28, `make keyservices`)",
        "boto3 in two regions, tools, checkpoints",
        _paths("tests/keyservices/aws_through_the_proxy.py", "tests/keyservices/checkpoints_in_a_bucket.py"),
    )
    yield (
        "all with tools",
        "60 requests that we wrote (`tests/mcp/tool_requests.toml`)",
        ("`find_tools` lists a right tool among the first five for 30 of 30 tuning requests and 29 of 30 others"),
        _paths("tests/providers/tools/test_tool_search.py"),
    )
    yield (
        "any",
        "scripted HTTP servers",
        "cut, huge, slow, HTML, or false answers",
        _paths(
            "tests/providers/test_providers_oauth.py",
            "tests/providers/test_providers_api.py",
            "tests/providers/test_http_outbound.py",
        ),
    )


def markdown_list() -> str:
    """An entry for each row, with its tests on the next line."""
    return "".join(
        f"- {providers}, with {double}: {tried}\\\n  {where}\n" for providers, double, tried, where in rows()
    )


def lacking_tools() -> str:
    """Tools that couldn't run at `emulate`."""
    found: Any = importlib.import_module("tests.journeys.foreign.test_foreign_services")
    return f"{_names(found.LACKING)}\n"


def _names(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _paths(*paths: str) -> str:
    assert all((ROOT / path).is_file() for path in paths), paths
    return _names(paths)


def _python(name: str) -> str:
    return f"`{name}` {importlib.metadata.version(name)}"


def _node(name: str) -> str:
    wanted = json.loads((ROOT / "tests/node/package.json").read_text(encoding="utf-8"))["dependencies"]
    return f"`{name}` {wanted[name]}"


def _octokit() -> str:
    source: str = json.loads(github.ANSWERS.read_text(encoding="utf-8"))["source"]
    return source.partition("@octokit/openapi ")[2]
