"""The catalog of the pages' texts: every name that a page uses exists, and no page contains words of its own."""

import ast
import re
from importlib import resources
from pathlib import Path
from string import Formatter

import pytest
from jinja2 import Environment
from pydantic import BaseModel

from server.http import page_texts
from server.settings import load_settings

_TEMPLATES = sorted(Path(str(resources.files("server.portal").joinpath("templates"))).rglob("*.html"))
_HANDLERS = [
    *sorted(Path(str(resources.files("server.portal"))).rglob("*.py")),
    *sorted(Path(str(resources.files("server.remote"))).glob("*.py")),
    *sorted(Path(str(resources.files("server.http"))).glob("*.py")),
    *sorted(Path(str(resources.files("server.bridge"))).glob("*.py")),
    *sorted(Path(str(resources.files("server.administration"))).glob("*.py")),
]
_SHOWN_ATTRIBUTES = ("title", "aria-label", "alt", "data-label")
_ASIDE = {
    "narrow",
    "ask",
    "text",
    "text ask",
}  # CSS classes
_CHOSEN = (
    "access_status",
    "credential_refused",
    "access_ended",
    "status_hint",
    "status",
    "event",
    "event_of",
    "story_of",
    "why_of",
    "master_state",
    "channel",
    "notice",
    "notice_kind",
    "notice_how",
    "notice_failure",
    "webhook_failure",
    "webhook_type",
    "notifications_done",
    "language",
    "outcome",
    "why",
    "fix",
    "fact",
    "ended",
    "ended_badge",
    "token_scopes",
    "client_kind",
    "grant_end",
    "level",
    "admin_health",
    "admin_verdict",
    "admin_fix",
    "profile_done",
    "sign_in_method",
    "step_up",
    "admin_mode",
    "admin_role",
    "admin_origin",
    "before_change",
    "key_source",
    "signing_state",
    "role",
    "effect",
    "policy",
    "policy_about",
    "receipt_reason",
    "receipt_result",
    "no_proof",
    "server_sign_in",
    "tool_state",
    "tool_part",
    "tool_choice",
)  # selected by a value


def _words_of(template: str) -> list[str]:
    """The words in a template itself, outside tags, expressions and the catalog."""
    data = "".join(value if kind == "data" else "\0" for _, kind, value in Environment(autoescape=True).lex(template))
    shown = [part for name in _SHOWN_ATTRIBUTES for part in re.findall(rf'\b{name}="([^"]*)"', data)]
    shown.append(re.sub(r"<[^>]*>", "\n", data))
    return [word for text in shown for word in re.findall(r"[A-Za-z][^\n\0]*", text) if word.strip() not in _ASIDE]


def _asked_for() -> set[str]:
    """Every name that is written in full in a template or a handler."""
    found: set[str] = set()
    for template in _TEMPLATES:
        found |= set(re.findall(r'"([a-z_]+\.[a-z_]+)"', template.read_text("utf-8")))
    for handler in _HANDLERS:
        for node in ast.walk(ast.parse(handler.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"\A[a-z_]+\.[a-z_]+\Z", node.value))
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "PageRefused":
                name = ast.literal_eval(node.args[0])
                found |= {f"refused.{name}_title"} | ({f"refused.{name}"} if len(node.args) == 1 else set[str]())
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "ChangeRefused":
                if ast.unparse(node.args[0]) == "refused.reason":  # another one's, named there
                    continue
                name = ast.literal_eval(node.args[0])
                if name in page_texts.english()["refused"]:  # the others never reach a page
                    found |= {f"refused.{name}_title", f"refused.{name}"}
    return found


def _is_setting(name: str) -> bool:
    """Whether a page names the setting `section.field`."""
    section, _, setting = name.partition(".")
    found = getattr(load_settings(), section, None)
    return isinstance(found, BaseModel) and setting in type(found).model_fields


@pytest.mark.parametrize("template", _TEMPLATES, ids=lambda path: path.name)
def test_a_template_takes_every_word_from_the_catalogue(template: Path) -> None:
    assert _words_of(template.read_text("utf-8")) == []


def test_words_in_a_template_are_found() -> None:
    """The twin: the test above finds what it looks for."""
    page = '<p title="A hint">Hello {{ t("a.b") }} <b>there</b></p>{% if x %}No{% endif %}'
    assert _words_of(page) == ["A hint", "Hello ", "there", "No"]


def test_every_text_is_asked_for_and_every_name_is_there() -> None:
    known = {f"{page}.{name}" for page, texts in page_texts.english().items() for name in texts}
    pages = page_texts.english().keys()
    asked = _asked_for()
    asked |= known & {f"{name}_title" for name in asked}  # a page's title is named after its text
    asked = {name for name in asked if name.partition(".")[0] in pages and not name.endswith((".html", ".py"))}
    asked -= {name for name in asked - known if _is_setting(name)}
    built = {
        name
        for name in known
        if name.startswith(("access.any_", "admin.", "approval.", "activity.", *(f"{page}." for page in _CHOSEN)))
    }
    assert asked - known - {name for name in asked if name.partition(".")[0] in _CHOSEN} == set()
    assert known - asked - built == set()


def test_a_value_is_escaped_in_every_text_that_shows_one() -> None:
    for page, texts in page_texts.english().items():
        for name, text in texts.items():
            fields = [field for _, field, _, _ in Formatter().parse(text) if field is not None]
            shown = page_texts.markup(f"{page}.{name}", **dict.fromkeys(fields, "<i>"))
            assert shown.count("&lt;i&gt;") == len(fields)
            assert "<i>" not in shown


def flatten_texts(catalogue: page_texts.Catalogue) -> dict[str, str]:
    return {f"{page}.{name}": text for page, texts in catalogue.items() for name, text in texts.items()}


def values_of(text: str) -> set[str]:
    return {field for _, field, _, _ in Formatter().parse(text) if field is not None}


def plain_values_of(text: str) -> set[str]:
    """The values, with a provider's title in place of the title with its English article."""
    return {"provider" if field == "a_provider" else field for field in values_of(text)}


def markup_of(text: str) -> list[str]:
    return sorted(re.findall(r"<[^>]*>", text))


def test_the_german_translation_has_every_text_with_the_same_values_and_markup() -> None:
    """Each name below is missing from `texts.de.toml`, is superfluous there, or says something else."""
    english, german = flatten_texts(page_texts.english()), flatten_texts(page_texts.read("texts.de.toml"))
    assert sorted(english.keys() - german.keys()) == [], "translate these into texts.de.toml"
    assert sorted(german.keys() - english.keys()) == [], "remove these from texts.de.toml"
    assert [name for name in english if plain_values_of(english[name]) != plain_values_of(german[name])] == []
    assert [name for name in german if "a_provider" in values_of(german[name])] == []  # its article is English
    assert [name for name in english if markup_of(english[name]) != markup_of(german[name])] == []


def test_a_language_is_taken_while_it_is_used_and_english_where_there_is_none() -> None:
    with page_texts.use_language("de"):
        assert page_texts.text("common.save") == "Speichern"
        assert page_texts.language() == "de"
    with page_texts.use_language("xx"):
        assert page_texts.text("common.save") == "Save"
    assert page_texts.complete({"common": {"save": "Sichern"}})["common"]["cancel"] == "Cancel"


@pytest.mark.parametrize(
    ("header", "chosen", "expected"),
    [
        ("de-AT,de;q=0.9,en;q=0.8", "", "de"),
        ("en-US,en;q=0.9,de;q=0.8", "", "en"),
        ("fr,de;q=0.5,en;q=0.4", "", "de"),
        ("de;q=0,en;q=0.1", "", "en"),
        ("fr", "", "en"),
        ("", "", "en"),
        ("en", "de", "de"),
        ("de", "xx", "de"),
        ("de;q=never", "", "en"),
    ],
)
def test_the_language_is_the_chosen_one_or_what_the_browser_likes_best(header: str, chosen: str, expected: str) -> None:
    assert page_texts.choose_language(header, chosen=chosen) == expected


@pytest.mark.parametrize("page", ["event", "story", "why"])
def test_a_text_that_speaks_to_a_person_also_speaks_about_them(page: str) -> None:
    """Administrators read about other people: "You signed in" would be wrong there."""
    texts, about = page_texts.english()[page], page_texts.english()[f"{page}_of"]
    assert {name for name, words in texts.items() if re.search(r"\byou", words, re.IGNORECASE)} == about.keys()
    assert [words for words in about.values() if re.search(r"\byou", words, re.IGNORECASE)] == []


def test_what_an_admin_can_do_is_never_told_as_done_by_the_person() -> None:
    source = "".join(path.read_text("utf-8") for path in _HANDLERS if path.parent.name == "administration")
    kinds = {*re.findall(r'\.event\(\s*"([a-z_]+\.[a-z_]+)"', source), "approval.standing_revoked"}
    kinds -= {"connection.given", "connection.rule_changed", "connection.ended_for_group"}  # by the person whose event
    assert len(kinds) > 30
    told = [
        f"{page}.{kind}"
        for page in ("event", "event_of")
        for kind in kinds & page_texts.english()[page].keys()
        if page_texts.english()[page][kind].startswith(("You ", "{person} "))
    ]
    assert told == []
