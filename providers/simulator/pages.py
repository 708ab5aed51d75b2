"""The simulator's HTML: consent, errors, and a front page that shows what agents did. The template engine escapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from providers.simulator.accounts import PEOPLE, Face

_SERVICE: dict[Face, str] = {"slack": "Slack", "google": "Google", "company": "company"}
_ACCENT: dict[Face, str] = {"slack": "#611f69", "google": "#1a66d2"}
_NO_ACCENT = "#3b5bdb"
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "pages"), autoescape=True, undefined=StrictUndefined
)


@dataclass(frozen=True, slots=True)
class ConsentView:
    """What the consent page shows. `choices` can be cleared one by one."""

    handle: str
    action: str
    client: str
    returns_to: str
    fixed: tuple[str, ...]
    choices: tuple[str, ...]
    selected: str


def consent_page(face: Face, view: ConsentView) -> HTMLResponse:
    """Account picker, the scopes, Allow and Cancel."""
    values: dict[str, object] = {field.name: getattr(view, field.name) for field in fields(view)}
    return _render("consent.html", face, {**values, "people": list(PEOPLE.values())})


def sign_in_page(face: Face, *, client: str, action: str, hidden: Mapping[str, str]) -> HTMLResponse:
    """The company's sign-in page; `hidden` is the request that it answers."""
    values: dict[str, object] = {"client": client, "action": action, "hidden": hidden}
    return _render("sign_in.html", face, {**values, "people": list(PEOPLE.values())})


def refused_page(face: Face, *, error: str, description: str, status: int = 400) -> HTMLResponse:
    """An error that must not be redirected."""
    return _render("refused.html", face, {"error": error, "description": description}, status=status)


def home_page(*, posts: Sequence[object], events: Sequence[object], families: Sequence[object]) -> HTMLResponse:
    """The events in the sandbox."""
    template = _TEMPLATES.get_template("home.html")
    return HTMLResponse(
        template.render(accent=_NO_ACCENT, service="Slack or Google", posts=posts, events=events, families=families),
        headers=_HEADERS,
    )


def _render(name: str, face: Face, values: Mapping[str, object], *, status: int = 200) -> HTMLResponse:
    template = _TEMPLATES.get_template(name)
    service = _SERVICE.get(face, face.rpartition(".")[2])
    body = template.render(service=service, accent=_ACCENT.get(face, _NO_ACCENT), **values)
    return HTMLResponse(body, status_code=status, headers=_HEADERS)
