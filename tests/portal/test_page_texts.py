"""The catalogue of the pages' texts: every name that a page asks for is there, and no page says words of its own."""

import ast
import re
from importlib import resources
from pathlib import Path
from string import Formatter

import pytest
from jinja2 import Environment

from server.http import page_texts

_TEMPLATES = sorted(Path(str(resources.files("server.portal").joinpath("templates"))).rglob("*.html"))
_HANDLERS = [
    *sorted(Path(str(resources.files("server.portal"))).rglob("*.py")),
    *sorted(Path(str(resources.files("server.http"))).glob("*.py")),
    *sorted(Path(str(resources.files("server.bridge"))).glob("*.py")),
]
_SHOWN_ATTRIBUTES = ("title", "aria-label", "alt", "data-label")
_ASIDE = {
    "narrow",
    "ask",
    "text",
    "text ask",
    "token-vault providers setup slack",
    "providers.",
}  # classes, a command, a setting
_CHOSEN = (
    "status_hint",
    "status",
    "event",
    "channel",
    "notice",
    "notice_kind",
    "notice_how",
    "notice_failure",
    "notifications_done",
    "language",
    "did",
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
)  # by a value


def _words_of(template: str) -> list[str]:
    """What a template says by itself, outside tags, expressions and the catalogue."""
    data = "".join(value if kind == "data" else "\0" for _, kind, value in Environment(autoescape=True).lex(template))
    shown = [part for name in _SHOWN_ATTRIBUTES for part in re.findall(rf'\b{name}="([^"]*)"', data)]
    shown.append(re.sub(r"<[^>]*>", "\n", data))
    return [word for text in shown for word in re.findall(r"[A-Za-z][^\n\0]*", text) if word.strip() not in _ASIDE]


def _asked_for() -> set[str]:
    """Every name that stands whole in a template or a handler."""
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
    return found


@pytest.mark.parametrize("template", _TEMPLATES, ids=lambda path: path.name)
def test_a_template_takes_every_word_from_the_catalogue(template: Path) -> None:
    assert _words_of(template.read_text("utf-8")) == []


def test_words_in_a_template_are_found() -> None:
    """The twin: what the test above looks for is found where it is."""
    page = '<p title="A hint">Hello {{ t("a.b") }} <b>there</b></p>{% if x %}No{% endif %}'
    assert _words_of(page) == ["A hint", "Hello ", "there", "No"]


def test_every_text_is_asked_for_and_every_name_is_there() -> None:
    known = {f"{page}.{name}" for page, texts in page_texts.CATALOGUE.items() for name in texts}
    pages = page_texts.CATALOGUE.keys()
    asked = _asked_for()
    asked |= known & {f"{name}_title" for name in asked}  # a page's title goes by the name of its text
    asked = {name for name in asked if name.partition(".")[0] in pages and not name.endswith((".html", ".py"))}
    built = {
        name
        for name in known
        if name.startswith(("admin.", "approval.", "activity.", *(f"{page}." for page in _CHOSEN)))
    }
    assert asked - known - {name for name in asked if name.partition(".")[0] in _CHOSEN} == set()
    assert known - asked - built == set()


def test_a_value_is_escaped_in_every_text_that_shows_one() -> None:
    for page, texts in page_texts.CATALOGUE.items():
        for name, text in texts.items():
            fields = [field for _, field, _, _ in Formatter().parse(text) if field is not None]
            shown = page_texts.markup(f"{page}.{name}", **dict.fromkeys(fields, "<i>"))
            assert shown.count("&lt;i&gt;") == len(fields)
            assert "<i>" not in shown
