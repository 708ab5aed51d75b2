"""Facebook's Graph API for Pages (developers.facebook.com/docs/pages-api): a person's Pages, and posts on them.

A post needs the Page's own token, which the person's token can request; with the person's token it is refused.
"""

from __future__ import annotations

from pydantic import JsonValue
from starlette.responses import Response

from tests.support.services.desk import Record, ServiceCall, reply, text

PAGE, NOT_MINE = "104000000000001", "104000000000002"
_PAGES: tuple[Record, ...] = (
    {
        "id": PAGE,
        "name": "Sandbox Garden",
        "category": "Garden",
        "followers_count": 12,
        "tasks": ["CREATE_CONTENT", "MODERATE"],
    },
    {"id": NOT_MINE, "name": "Neighbours", "category": "Community", "tasks": ["ANALYZE"]},
)
_FIELDS = ("id", "name", "category", "tasks", "access_token")


def answer(visit: ServiceCall) -> Response:
    """One operation, with the person's token or a Page's token."""
    mine = next((page for page in _PAGES if visit.token.item == _address(page)), None)
    match visit.call.method, visit.parts:
        case "GET", ["me", "accounts"]:
            shown: list[JsonValue] = [_page_fields(visit, page, default="id,name,category,tasks") for page in _PAGES]
            return reply({"data": shown, "paging": {"cursors": {"before": "b", "after": "a"}}})
        case "GET", [page] if found := next((one for one in _PAGES if one["id"] == page), None):
            return reply(_page_fields(visit, found, default="id,name"))
        case "POST", [page, "feed"] if any(one["id"] == page for one in _PAGES):
            return _post(visit, page, mine)
        case _:
            return refusal(404, 100, "Unsupported request", kind="GraphMethodException")


def _address(page: Record) -> str:
    """How a Page's token can be recognized."""
    return f"facebook://x/api/{page['id']}"


def _page_fields(visit: ServiceCall, page: Record, *, default: str) -> Record:
    names = visit.call.query.get("fields", default).split(",")
    shown: Record = {name: page[name] for name in names if name in page}
    if "access_token" in names and "pages_manage_posts" in visit.token.scopes:
        tokens = visit.sandbox.face(f"families.{visit.call.path_params['mode']}").tokens
        shown["access_token"] = tokens.derive(visit.token, visit.token.scopes, item=_address(page)).access_token
    return {**shown, "id": page["id"]}


def _post(visit: ServiceCall, page: str, mine: Record | None) -> Response:
    if mine is None or mine["id"] != page:
        return refusal(403, 200, "(#200) A post on a Page needs the access token of that Page.")
    tasks = mine["tasks"]
    if not isinstance(tasks, list) or "CREATE_CONTENT" not in tasks:
        return refusal(403, 200, "(#200) The person cannot create content there.")
    message = text(dict(visit.body), "message")
    if not message and not text(dict(visit.body), "link"):
        return refusal(400, 100, "(#100) You must provide a message or a link.")
    visit.note("facebook", message)
    return reply({"id": f"{page}_122000000000001"})


def refusal(status: int, code: int, message: str, *, kind: str = "OAuthException") -> Response:
    """An error in Facebook's shape."""
    return reply({"error": {"message": message, "type": kind, "code": code, "fbtrace_id": "A1"}}, status=status)


def no_authority(status: int) -> Response:
    """The token is dead, or the person hasn't granted a permission."""
    if status == 401:
        return refusal(400, 190, "Error validating access token: the session has expired.")
    return refusal(403, 200, "(#200) Requires a permission that was not granted.")
