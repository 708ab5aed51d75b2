"""What the fields of a tool file mean: the JSON Schema for editors, and docs/reference/tool-files.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from providers.definitions.field_texts import field_texts
from providers.tools.declarations import ToolFile

TOOL: Final[Mapping[str, str]] = {
    "name, title, description": "What agents and people read. Say what a repeated call does.",
    "scopes": "The minimum that the call needs.",
    "effect": "`read`, `create`, `update`, or `delete`.",
    "approval": "`true` if the person approves each call.",
    "request": (
        "`api` (one of the provider's `[apis]`), `method`, and `path`, where `{name}` stands for one segment; `query`, "
        "`body`, and `headers` are sent unchanged."
    ),
    "arguments, result, presentation": "See below.",
}
ARGUMENT: Final[Mapping[str, str]] = {
    "type": "`text` (default), `integer`, `number`, `boolean`, `time` (RFC 3339 with offset), `date`, or `texts`.",
    "description": (
        "What agents read. They don't see `pattern`, or a length with one or below 500: describe the format here."
    ),
    "required, default": "Whether it must be given (default), or the value to use if it isn't.",
    "choices": "The texts that are accepted.",
    "pattern": "A regular expression for the whole text, from `^` to `$`.",
    "min, max": "Bounds of a number, of a text's length, or of a list's size.",
    "place": (
        "`path`, `query`, `body`, or `header` (one of the provider's `proxied.headers`), or `choice` (a field of its "
        "credential with `many`). Default: the path if it has "
        "the name, else the query of a read and the body of a write."
    ),
    "as": "Its name in the request; dotted: below an object.",
    "template": "A text around the value, which takes the place of `{}`.",
    "escape": "Characters of a text that get a backslash.",
    "separator": "Joins a list into one text.",
    "send": (
        "A time's form: `rfc3339` (default), `utc`, `zulu` (UTC with Z), `seconds`, or `milliseconds`. `integer` sends "
        "digits as a number."
    ),
    "graphemes, bytes": "Most characters as people see them, and most bytes in UTF-8, of a text.",
}
OUTPUT: Final[Mapping[str, str]] = {
    "path": "Its path in the answer; the first of several that exists.",
    "type": (
        "`text` (cut to `max`, marked as data), `word` (visible ASCII), `base64` (decoded to text), `json` (any value, "
        "as JSON text), `integer`, `number`, `boolean`, `texts`."
    ),
    "description": "What agents read.",
    "max": "Characters of a text: 500, at most 20,000.",
    "template": "A text around the value, such as a link.",
}
RESULT: Final[Mapping[str, str]] = {
    "items": "Path of the list that is returned; `items` if the answer itself is the list.",
    "fields": "What is returned, nothing else. Needed for reads.",
    "line": "Readable text of each item, or of the whole; `{name}` is replaced by a value.",
    "omits_empty": "The service leaves out an empty list. Otherwise an answer without list or `fields` is refused.",
    "needs, allows_null": "A path that must exist, or may be null if there are no `errors` (GraphQL).",
    "expect, else": "Values required at these paths, and what to say otherwise.",
    "next, more": "Path of the next cursor, which adds `cursor`, and of what is false or missing after the last page.",
}
PRESENTATION: Final[Mapping[str, str]] = {
    "sentence": 'Completes "Cursor wants to ...".',
    "done, done_one": (
        "In the activity, for several results and for one, with `{agent}`, `{account}`, and `{count}` (their number "
        "and a space)."
    ),
    "texts, people": "Arguments that are shown as texts, and as recipients.",
    "target, target_domains": "Arguments, or the domains of `people`, that a standing approval binds.",
    "lookups": (
        "Reads for the person's page: `api`, `path`, `query` (or `graphql`, `variables`), `scopes`, and `names` for "
        "what was found. `before` has paths of what arguments change."
    ),
}


def tool_file_schema() -> dict[str, object]:
    """The JSON Schema of a tool file, for editors that check and complete TOML."""
    described = ToolFile.model_json_schema(by_alias=True)
    parts = described["$defs"]
    for part, texts in (
        ("Tool", TOOL),
        ("Argument", ARGUMENT),
        ("Output", OUTPUT),
        ("Result", RESULT),
        ("Presentation", PRESENTATION),
    ):
        for name, text in field_texts(texts):
            parts[part]["properties"][name]["description"] = text
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **described, "title": "Tool file"}
