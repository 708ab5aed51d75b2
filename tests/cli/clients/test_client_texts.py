"""One entry is added to and removed from files that other programs and people wrote; nothing else changes.

The oracles are the formats' own parsers: tomllib, PyYAML, and `jsonc-parser`, which VS Code and opencode use.
"""

from __future__ import annotations

import asyncio
import json
import tomllib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from server.setup import client_json, client_toml, client_yaml
from server.setup.client_files import FORMATS
from server.setup.client_json import EntryError
from tests.support.foreign.foreign import FOLDER, node

NAME = "token-vault"
OURS: dict[str, object] = {
    "command": "/opt/a b/token-vault",
    "args": ["stdio", "--data", 'a "quoted" \\ path: #1'],
    "env": {"A": "b'c"},
    "enabled": True,
    "timeout": 60,
}
ZED = """\
// Zed settings
{
  "theme": "One Dark", /* dark */
  "context_servers": {
    // mine
    "other": {"url": "https://a.example/"}, // keep
  },
  "buffer_font_size": 15,
  // the end
}
"""
CODEX = """\
# my Codex
model = "gpt-6"

[mcp_servers.other] # theirs
url = "https://a.example/" # not "quoted"

[tui]
theme = "dark"
"""
GOOSE = """\
# my goose
GOOSE_MODE: smart_approve
GOOSE_SEARCH_PATHS:
- /usr/local/bin
extensions:
  # built in
  developer:
    enabled: true
    type: builtin
    args:
    - '# no comment'

  memory:
    enabled: false
    description: |
      several lines
      # not a comment
# last
active_provider: anthropic
"""


async def jsonc(*texts: str) -> list[object]:
    """The text as `jsonc-parser` reads it; errors fail the test."""
    program = (
        "import { parse, printParseErrorCode } from 'jsonc-parser';"
        "const texts = JSON.parse(process.argv[1]);"
        "console.log(JSON.stringify(texts.map((text) => { const errors = [];"
        "const value = parse(text, errors, { allowTrailingComma: true });"
        "if (errors.length) throw new Error(printParseErrorCode(errors[0].error) + ' in ' + text); return value; })))"
    )
    process = await asyncio.create_subprocess_exec(
        *(node(), "--input-type=module", "-e", program, json.dumps(texts)),
        cwd=FOLDER,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(out)


@pytest.mark.group("node")
async def test_jsonc_parser_reads_what_was_written() -> None:
    texts = [
        "",
        "{}",
        "{ // c\n}",
        ZED,
        '{"context_servers":{}}',
        '{"a":[1,{"b":null,},],\r\n"context_servers":{"x":{}}}',
    ]
    changed = [client_json.with_entry(text, "context_servers", NAME, OURS) for text in texts]
    replaced = [client_json.with_entry(text, "context_servers", NAME, {"url": "u"}) for text in changed]
    removed = [client_json.without_entry(text, "context_servers", NAME) for text in replaced]
    for text, *results in zip(texts, *[await jsonc(*some) for some in (changed, replaced, removed)], strict=True):
        (before,) = await jsonc(text or "{}")
        others = {key: value for key, value in before.get("context_servers", {}).items() if key != NAME}
        for result, entry in zip(results, (OURS, {"url": "u"}, None), strict=True):
            own = {} if entry is None else {NAME: entry}
            assert result == {**before, "context_servers": {**others, **own}}
            assert list(result["context_servers"]) == [*others, *own]


def test_comments_and_layout_of_a_settings_file_stay() -> None:
    changed = client_json.with_entry(ZED, "context_servers", NAME, {"command": "x"})
    assert changed == ZED.replace("// keep\n", '// keep\n    "token-vault": {\n      "command": "x"\n    },\n')
    assert client_json.without_entry(changed, "context_servers", NAME) == ZED
    in_a_line = client_json.with_entry('{"a": 1}', "mcp", NAME, 1)
    assert in_a_line == '{"a": 1,\n  "mcp": {\n    "token-vault": 1\n  }\n}'
    assert client_json.with_entry('{\n\t"a": 1 // b\n}', "mcp", NAME, 1) == (
        '{\n\t"a": 1, // b\n\t"mcp": {\n\t\t"token-vault": 1\n\t}\n}'
    )


def test_toml_keeps_comments_and_order() -> None:
    changed = client_toml.with_entry(CODEX, "mcp_servers", NAME, OURS)
    assert changed.startswith(CODEX)
    assert tomllib.loads(changed)["mcp_servers"] == {"other": {"url": "https://a.example/"}, NAME: OURS}
    replaced = client_toml.with_entry(changed, "mcp_servers", NAME, {"url": "u"})
    assert tomllib.loads(replaced)["mcp_servers"][NAME] == {"url": "u"}
    assert replaced.startswith(CODEX)
    removed = client_toml.without_entry(replaced, "mcp_servers", NAME)
    assert tomllib.loads(removed) == tomllib.loads(CODEX)
    assert removed.startswith(CODEX)


def test_a_toml_entry_between_others_is_replaced_in_its_place() -> None:
    text = '[mcp_servers.token-vault]\ncommand = "old" # gone\n\n# of the next\n[mcp_servers.b]\nurl = "u"\n'
    changed = client_toml.with_entry(text.replace(" # gone", ""), "mcp_servers", NAME, OURS)
    assert tomllib.loads(changed) == {"mcp_servers": {NAME: OURS, "b": {"url": "u"}}}
    assert "# of the next" in changed


def test_yaml_keeps_every_other_line() -> None:
    changed = client_yaml.with_entry(GOOSE, "extensions", NAME, OURS)
    before = yaml.safe_load(GOOSE)
    assert yaml.safe_load(changed) == {**before, "extensions": {**before["extensions"], NAME: OURS}}
    block = client_yaml.render("extensions", NAME, OURS).removeprefix("extensions:\n") + "\n"
    assert changed.replace(block, "") == GOOSE
    replaced = client_yaml.with_entry(changed, "extensions", NAME, {"uri": "u"})
    assert yaml.safe_load(replaced)["extensions"][NAME] == {"uri": "u"}
    assert client_yaml.without_entry(replaced, "extensions", NAME) == GOOSE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: 1\n",
        "a: 1",
        "extensions:\n",
        "extensions: {}  # none\n",
        "---\nextensions:\n  x: {}\nb: 2\n",
        "a: 1\r\n",
    ],
)
def test_yaml_takes_an_entry_in_any_beginning(text: str) -> None:
    before = yaml.safe_load(text) or {}
    changed = client_yaml.with_entry(text, "extensions", NAME, OURS)
    assert yaml.safe_load(changed) == {**before, "extensions": {**(before.get("extensions") or {}), NAME: OURS}}
    assert ("\r\n" in changed) is ("\r\n" in text)
    removed = client_yaml.without_entry(changed, "extensions", NAME)
    assert (yaml.safe_load(removed)["extensions"] or {}) == (before.get("extensions") or {})


@pytest.mark.parametrize(
    ("form", "text", "why"),
    [
        ("json", "[]", "doesn't contain a JSON object"),
        ("json", '{"s": []}', "s isn't an object"),
        ("json", '{"s": {}, "s": {}}', "s is there twice"),
        ("json", '{\n"a": 1 "b"}', "line 2 isn't JSON"),
        ("json", '{"a": /* no end', "isn't JSON"),
        ("json", "{'a': 1}", "isn't JSON"),
        ("json", '{"a": ' + "[" * 200, "nested too deeply"),
        ("toml", "s = 1\n", "s isn't a table"),
        ("toml", "a = \n", "isn't valid TOML"),
        ("yaml", "s: [a]\n", "line 1 isn't a key of a block mapping"),
        ("yaml", "{a: 1}\n", "line 1 isn't a key"),
        ("yaml", "a: 1\n...\n", "line 2 isn't a key"),
        ("yaml", "s:\n- a\n", "line 2 isn't a key"),
        ("yaml", "s:\n  a: 1\ns:\n  b: 2\n", "s is there twice"),
        ("yaml", "s:\n\ta: 1\n", "line 2 is indented with a tab"),
        ("yaml", "s:\n  a: |+\n    b\n\n", "line 2 keeps the blank lines"),
        ("yaml", "s:\n  - a\n", "line 2 isn't a key"),
    ],
)
def test_a_text_without_a_safe_place_is_refused(form: str, text: str, why: str) -> None:
    with pytest.raises(EntryError, match=why):
        FORMATS[form].with_entry(text, "s", NAME, OURS)


GAP = st.sampled_from(["", " ", "\n", "\n  ", ' /* , { " */ ', " // } ]\n", "\t", "\r\n"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=6)
    | st.sampled_from(["//", "/*", '"', "\\", "}", ","]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def loosely_written_json(draw: st.DrawFn, value: object) -> str:
    """The value as a person could write it, with comments, odd spacing, and maybe a trailing comma."""
    if isinstance(value, dict | list) and value:
        parts = [
            draw(GAP)
            + (
                json.dumps(part) + draw(GAP) + ":" + draw(GAP) + draw(loosely_written_json(value[part]))
                if isinstance(value, dict)
                else draw(loosely_written_json(part))
            )
            + draw(GAP)
            for part in value
        ]
        comma = "," + draw(GAP) if draw(st.booleans()) else ""
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        return opening + ",".join(parts) + comma + closing
    return json.dumps(value)


@given(data=st.data())
def test_any_commented_json_takes_the_entry_and_gives_it_back(data: st.DataObject) -> None:
    section = st.dictionaries(st.text(max_size=4), VALUES, max_size=3)
    content = data.draw(st.dictionaries(st.text(max_size=4), VALUES, max_size=3))
    has_section = data.draw(st.booleans())
    entries = data.draw(section) if has_section else {}
    if has_section:
        content["servers"] = entries
    text = data.draw(GAP) + data.draw(loosely_written_json(content)) + data.draw(GAP)
    changed = client_json.with_entry(text, "servers", NAME, OURS)
    assert client_json.entry_of(changed, "servers", NAME) == OURS
    assert client_json.rest_of(changed, "servers", NAME) == client_json.rest_of(text, "servers", NAME)
    replaced = client_json.with_entry(changed, "servers", NAME, 1)
    removed = client_json.without_entry(replaced, "servers", NAME)
    assert client_json.rest_of(removed, "servers", NAME) == client_json.rest_of(text, "servers", NAME)
    for comment in ('/* , { " */', "// } ]"):
        assert changed.count(comment) == removed.count(comment) == text.count(comment)


NAMES_OF_YAML = st.sampled_from(["a", "b-c", "d_e", "token-vault", "x1"])
PLAIN = (
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "x", "a: b", "# c", "- d", "{", "two\nlines\n"])
)
TREES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES_OF_YAML, inner, max_size=2), max_leaves=6
)


@given(
    content=st.dictionaries(NAMES_OF_YAML, TREES, max_size=3),
    entries=st.none() | st.dictionaries(NAMES_OF_YAML, st.dictionaries(NAMES_OF_YAML, TREES, min_size=1), max_size=3),
    style=st.sampled_from([None, False]),
)
def test_any_yaml_of_another_program_takes_the_entry_and_gives_it_back(
    content: dict[str, object], entries: dict[str, object] | None, style: bool | None
) -> None:
    content = content if entries is None else {**content, "extensions": entries}
    text = yaml.safe_dump(content, default_flow_style=style, sort_keys=False) if content else ""
    try:
        changed = client_yaml.with_entry(text, "extensions", NAME, OURS)
    except EntryError:
        assert style is None or "|+" in text  # only texts in another style may be refused
        return
    assert yaml.safe_load(changed) == {**content, "extensions": {**(entries or {}), NAME: OURS}}
    removed = client_yaml.without_entry(changed, "extensions", NAME)
    others = {key: value for key, value in (entries or {}).items() if key != NAME}
    assert yaml.safe_load(removed) == {**content, "extensions": others}


@given(
    content=st.dictionaries(NAMES_OF_YAML, st.integers() | st.text(max_size=5), max_size=3),
    entries=st.dictionaries(NAMES_OF_YAML, st.dictionaries(NAMES_OF_YAML, st.text(max_size=5)), max_size=3),
)
def test_any_toml_takes_the_entry_and_gives_it_back(content: dict[str, object], entries: dict[str, object]) -> None:
    import tomlkit

    text = "# first\n" + tomlkit.dumps({**content, "mcp_servers": entries}) + "# last\n"
    changed = client_toml.with_entry(text, "mcp_servers", NAME, OURS)
    assert tomllib.loads(changed)["mcp_servers"] == {**entries, NAME: OURS}
    removed = client_toml.without_entry(changed, "mcp_servers", NAME)
    others = {key: value for key, value in entries.items() if key != NAME}
    found = tomllib.loads(removed)
    assert found.pop("mcp_servers", {}) == others
    assert found == content
    assert changed.count("# first") == removed.count("# first") == 1
