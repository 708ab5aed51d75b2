"""The generated parts of the documentation: `python -m tests.generating.reference_pages` writes them.

It writes all of `tools.md` and `services.md`. In `settings.md` it replaces all sections, in `commands.md` everything
below "Shared options". On every page it replaces the parts of `marked_parts`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel

from providers.definitions.catalog import load_catalog
from providers.definitions.model import Provider
from providers.tools import declarations
from providers.tools.builtin import builtin_tools
from providers.tools.spec import ToolSpec
from server.mcp.offer import connections_spec, discovery
from server.settings import Settings
from tests.generating import marked_parts
from tests.generating.documentation import (
    COMMON,
    ROOT,
    arguments_of,
    bounds_of,
    commands,
    default_of,
    leaves,
    model_in,
    options_of,
)
from tests.generating.openapi_contracts import KEPT
from tests.generating.shipped_tools import shipped_tools
from tests.support.toolset_cases import CASES

_TOOLS = """# Tools

The included tools, by effect and scopes: `read`, `create` (a repeated call creates another), or `change` (can change or
delete). With `ask`, the person approves each call. `token-vault tools list --json` prints descriptions, arguments, and
results. See [Use tools](../guides/tools.md).

Services without a note [ran against a double](../evidence/tested-against.md). For the others, requests and results were
compared with the document named, or, where it says "unsure", with two libraries. No tool ran live.
"""
_SERVICES = """# Services

{count} provider files are included. In parentheses: the name, if it differs, names for parts of the service, and
required `providers.NAME.inputs`. `token-vault providers list` shows how sure each file is, `providers show NAME` scopes
and sources.
"""
_ROTATIONS = {
    "none": "A used refresh token stays valid",
    "grace": "A used refresh token works for a short time",
    "strict": "A used refresh token is refused",
    "revokes": "A used refresh token ends the grant, or it is unknown",
    "never": "No refresh tokens",
    "asked": "API keys that the vault can check: {count} services",
    "unasked": "API keys that it can't check: {count} services",
}


_SAID_ABOUT = {  # settings sections, and the pages that say more about them
    "database": ("PostgreSQL", "../operate/postgresql.md#several-hosts"),
    "keys": ("master keys", "../operate/keys.md"),
    "tokens": ("repeated refresh tokens", "../../SECURITY.md#repeated-refresh-tokens"),
    "exchange": ("token exchange", "../guides/token-exchange.md"),
    "policy": ("rules of your own", "../operate/policy.md"),
    "auth0": ("Auth0", "../guides/auth0.md"),
    "signals.transmitters.NAME": ("signals", "../operate/signals.md"),
    "signals.providers.NAME": ("signals from providers", "../operate/signals.md#from-providers"),
    "enterprise.NAME": ("companies' agents", "../operate/enterprise.md"),
    "activity": ("activity", "../operate/monitoring.md#activity"),
    "checkpoints": ("checkpoints", "../operate/monitoring.md#checkpoints"),
    "retention": ("retention", "../operate/monitoring.md#retention"),
    "approvals": ("approval", "../guides/tools.md#require-approval"),
    "tools": ("tools", "../guides/tools.md#offer-fewer-tools"),
    "mail": ("notifications", "../operate/monitoring.md#notifications"),
    "proxy": ("the proxy", "../guides/api-proxy.md"),
    "secrets": ("secrets kept elsewhere", "../guides/providers.md#keep-the-secret-elsewhere"),
    "admin": ("the Admin API", "../operate/admin-api.md"),
    "access_requests": ("requests for access", "../operate/enterprise.md#let-people-ask-for-more"),
    "telemetry": ("metrics and traces", "../operate/metrics.md"),
    "providers.NAME": ("provider files", "provider-files.md"),
}


def tools_page() -> str:
    """Every tool that ships, by provider."""
    groups: dict[str, list[ToolSpec]] = {}
    for spec in (*builtin_tools(), *shipped_tools().values(), connections_spec.SPEC, *discovery.DISCOVERY):
        groups.setdefault(spec.provider or "Any agent", []).append(spec)
    return _TOOLS + "".join(
        f"\n## {name}\n\n{_verification(name)}{_tools(specs)}" for name, specs in sorted(groups.items())
    )


def _verification(service: str) -> str:
    """What a service's tools were compared with, if no double simulates the service."""
    played = {case.provider for case in CASES.values()}
    kept, schema = KEPT / f"{service}.json", KEPT / f"{service}.graphql"
    if service in played or not (declarations.BUILT_IN / f"{service}.toml").exists():
        return ""
    if schema.exists():
        return f"{schema.read_text(encoding='utf-8').partition(chr(10))[0].removeprefix('# ')}.\n\n"
    if not kept.exists():
        return "Unsure.\n\n"
    return f"{json.loads(kept.read_text(encoding='utf-8'))['document']}.\n\n"


def _tools(specs: Sequence[ToolSpec]) -> str:
    """One line per effect, with its scopes."""
    lines: dict[str, list[str]] = {}
    for spec in specs:
        effect = "read" if spec.read_only else "change" if spec.destructive else "create"
        facts = [effect, *(["ask"] if spec.approval else []), *(f"`{scope}`" for scope in sorted(spec.scopes))]
        lines.setdefault(", ".join(facts), []).append(f"`{spec.name}`")
    return "".join(f"- {facts}: {', '.join(names)}\n" for facts, names in lines.items())


def services_page() -> str:
    """Every provider file that ships, grouped by what happens to a used refresh token."""
    groups: dict[str, list[str]] = {mode: [] for mode in _ROTATIONS}
    providers = sorted(load_catalog().all_providers(), key=lambda one: one.title.casefold())
    for provider in providers:
        mode = "never" if provider.refresh_tokens == "never" else provider.rotation.mode.value
        if provider.credential is not None:
            mode = "asked" if provider.identity.source != "none" else "unasked"
        groups[mode].append(_service(provider))
    return _SERVICES.format(count=len(providers)) + "".join(
        f"\n## {_ROTATIONS[mode].format(count=len(lines))}\n\n{', '.join(lines)}.\n"
        for mode, lines in groups.items()
        if lines
    )


def _service(provider: Provider) -> str:
    name = "" if provider.name == re.sub(r"[ .]", "-", provider.title.lower()) else f"`{provider.name}`"
    inputs = f"needs {', '.join(f'`{one}`' for one in provider.inputs)}" if provider.inputs else ""
    aliases = f"also {', '.join(f'`{one}`' for one in sorted(provider.aliases))}" if provider.aliases else ""
    closed = "closed by the service" if provider.retired else ""
    about = "; ".join(one for one in (name, aliases, inputs, closed) if one)
    return f"{provider.title}{f' ({about})' if about else ''}"


def settings_page(text: str) -> str:
    """The page with the settings model's names, defaults, and meanings."""
    lines: dict[str, list[str]] = {}
    said: dict[str, str] = {}
    for path, field in leaves(Settings):
        section = ".".join(path[:-1]).removesuffix(".clients.NAME").removesuffix(".sets.NAME")
        name, default = ".".join(path), default_of(field)
        known = lines.setdefault(section, [])
        if path[-1].endswith("_file") and known and f"`{name.removesuffix('_file')}`" in known[-1]:
            known[-1] = known[-1].replace("`:", f"`, `{name}`:", 1)  # the page explains these settings once
            continue
        shown = "" if default in {"", "none", "[]", "{}", "required"} else f" (`{default}`)"
        required = " Required." if default == "required" else ""
        about = f"{(field.description or '').rstrip('.')}{bounds_of(field)}.{required}"
        first = said.setdefault(about, name)
        meaning = about if first == name else f"as `{first}`."
        alike = next((at for at, one in enumerate(known) if one.endswith(f"`{shown}: {meaning}\n")), None)
        if alike is None:
            known.append(f"- `{name}`{shown}: {meaning}\n")
        else:
            known[alike] = known[alike].replace(f"`{shown}: ", f"`, `{name}`{shown}: ", 1)

    sections = "".join(
        f"\n## {f'`[{name}]`' if name else 'Top level'}\n\n{_about_section(name)}{''.join(found)}"
        for name, found in sorted(lines.items(), key=lambda one: one[0] == "")
    )
    return settings_intro(text) + sections


def settings_intro(text: str) -> str:
    """The text before the generated list."""
    return text.partition("\n## `[")[0]


def _about_section(name: str) -> str:
    """The purpose of a section, and the page that says more."""
    if not name:
        return ""
    model: type[BaseModel] = Settings
    for part in name.split("."):
        if part != "NAME":
            found = model_in(model.model_fields[part].annotation)
            assert found is not None, name
            model, _ = found
    about = "\n\n".join(" ".join(one.split()) for one in (inspect.getdoc(model) or "").split("\n\n"))
    return f"{about}{_link_about(name)}\n\n"


def _link_about(name: str) -> str:
    """Where to read more about a section."""
    return f" See [{_SAID_ABOUT[name][0]}]({_SAID_ABOUT[name][1]})." if name in _SAID_ABOUT else ""


def settings_links() -> str:
    """What the settings page says in addition to the model's texts."""
    return "".join(_link_about(name) for name in _SAID_ABOUT)


def commands_page(text: str) -> str:
    """The page with every command's help, arguments, and options; shared options are listed once."""
    real = {f"`{' '.join([words, *arguments_of(one)])}`": one for words, one in commands().items()}
    counted = Counter(line for one in real.values() for line in (*_arguments(one), *_options(one)))
    repeated = {line for line, count in counted.items() if count > 1}
    meanings = Counter(_name_in(line) for line in repeated)
    several = {name for name, count in meanings.items() if count > 1}
    shared = {line for line in repeated if _name_in(line) not in several}
    intro = commands_intro(text)
    listed = "".join(f"\n### {title}\n\n{_command(one, shared, several)}" for title, one in real.items())
    return f"{intro}### Shared options\n\n{''.join(sorted(shared))}{listed}"


def commands_intro(text: str) -> str:
    """The text before the generated list."""
    return text.partition("### Shared options\n")[0]


def _name_in(line: str) -> str:
    return line.split("`")[1]


def _command(command: Any, shared: set[str], several: set[str]) -> str:
    """One command; `several`: options with different meanings, so that each command explains its own."""
    lines = [line for line in _arguments(command) if line not in shared]
    explained = {_name_in(line) for line in shared} | several
    brief = {line for line in _options(command) if _is_plain(line) and _name_in(line) not in explained}
    lines += [line for line in _options(command) if line not in shared | brief]
    also = [_name_in(line) for line in _options(command) if line in shared | brief]
    if also:
        lines.append(f"- {', '.join(f'`{name}`' for name in also)}\n")
    return command.help + "\n" + "".join(("\n", *lines) if lines else ())


def _is_plain(line: str) -> bool:
    """Whether an option's name already says what its short help says."""
    return len(line.split()) <= 10 and not line.endswith("Required.\n")


def _arguments(command: Any) -> list[str]:
    """One line for each argument whose name doesn't explain it."""
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    return [f"- `{one.name.upper()}`: {one.help}\n" for one in arguments if len(one.help.split()) > 6]


def _options(command: Any) -> list[str]:
    """One line for each option that not all commands share."""
    lines: list[str] = []
    for name, one in options_of(command).items():
        if name not in COMMON:
            default = f" Default: {one.default}." if isinstance(one.default, str) and one.default else ""
            lines.append(f"- `{name}`: {one.help}{default}{' Required.' if one.required else ''}\n")
    return lines


_WHOLE: dict[str, Callable[[str], str]] = {
    "tools.md": lambda _: tools_page(),
    "services.md": lambda _: services_page(),
    "settings.md": settings_page,
    "commands.md": commands_page,
}
PAGES: dict[str, Callable[[str], str]] = {
    **{f"docs/reference/{name}": write for name, write in _WHOLE.items()},
    **dict.fromkeys(marked_parts.pages(), marked_parts.fill_in_parts),
}


if __name__ == "__main__":
    for name, write in PAGES.items():
        page = ROOT / name
        page.write_text(write(page.read_text(encoding="utf-8")), encoding="utf-8")
