"""The page of the declared tools, made of their files: `python -m tests.support.toolset_page` writes it anew."""

from __future__ import annotations

import json
from pathlib import Path

from providers.definitions.catalog import load_catalog
from providers.tools import declarations
from providers.tools.declared import data_tools
from providers.tools.spec import ToolSpec

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference/toolset.md"
_HEAD = """# Declared tools

Tools that come with the program as TOML files (`providers/toolset`), beside the built-in ones in [tools](tools.md).
Those of Slack and Google are always there, those of other providers when the provider is set up. Which of them agents
are offered: [`[tools]`](settings.md#tools). This page is written from the files. What each was tested against is said
in [providers](../evidence/tested-against.md).
"""


def shipped() -> dict[str, ToolSpec]:
    """Every declared tool by name, in the order of the files."""
    files = [(path, declarations.read_tool_file(path)) for path in sorted(declarations.BUILT_IN.glob("*.toml"))]
    return {spec.name: spec for spec in data_tools(files, load_catalog())}


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    provider = ""
    for spec in shipped().values():
        if spec.provider != provider:
            provider = spec.provider or ""
            parts.append(f"## {provider}\n")
        parts.append(_section(spec))
    return "\n".join(parts)


def _section(spec: ToolSpec) -> str:
    properties = spec.input_schema["properties"]
    required = spec.input_schema.get("required", [])
    assert isinstance(properties, dict)
    assert isinstance(required, list)
    kind = "read" if spec.read_only else "delete or change" if spec.destructive else "create"
    lines = [
        f"### `{spec.name}`",
        "",
        spec.description,
        "",
        f"Scopes: {', '.join(f'`{scope}`' for scope in sorted(spec.scopes))}. Effect: {kind}."
        + (" The person is asked each time." if spec.approval else ""),
        "",
        "| Argument | Required | Default | Meaning |",
        "| --- | --- | --- | --- |",
    ]
    for name, about in properties.items():
        is_required = name in required
        default = "" if is_required else f"`{json.dumps(about.get('default'))}`"
        lines.append(f"| `{name}` | {'yes' if is_required else 'no'} | {default} | {about['description']} |")
    return "\n".join([*lines, "", f"Result: {_result(spec)}.", ""])


def _result(spec: ToolSpec) -> str:
    schema = json.loads(json.dumps(spec.output_schema))
    if "items" not in schema["properties"] or "$defs" not in schema:
        return ", ".join(f"`{name}`" for name in schema["properties"])
    (item,) = schema["$defs"].values()
    return f"`items` (each with {', '.join(f'`{name}`' for name in item['properties'])}), `next_cursor`, `is_cut`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
