"""Notion (developers.notion.com/reference): search, blocks, pages, comments."""

from __future__ import annotations

from pydantic import JsonValue
from starlette.responses import Response

from tests.support.services.desk import Record, ServiceCall, at, page, reply, text

HOME = "11111111-1111-4111-8111-111111111111"
_SEED: tuple[Record, ...] = (
    {"id": HOME, "title": "Team handbook", "text": "Be kind. Ship small."},
    {"id": "22222222-2222-4222-8222-222222222222", "title": "Release checklist", "text": "Run the tests."},
)


def answer(visit: ServiceCall) -> Response:
    """One operation; an unknown page gets the same answer as one that wasn't shared."""
    pages = visit.records("notion", seed=_SEED)
    match visit.call.method, visit.parts:
        case "POST", ["search"]:
            words = text(dict(visit.body), "query").lower().split()
            found = [one for one in pages if all(word in text(one, "title").lower() for word in words)]
            size = at(dict(visit.body), "page_size")
            shown, following = page(
                [_page(visit, one) for one in found],
                size=size if isinstance(size, int) else 100,
                begin=text(dict(visit.body), "start_cursor") or None,
            )
            return _list(shown, following)
        case "GET", ["blocks", wanted, "children"]:
            found = [one for one in pages if one["id"] == wanted]
            if not found:
                return _not_found()
            rich: JsonValue = [{"type": "text", "plain_text": found[0]["text"]}]
            return _list(
                [{"object": "block", "id": f"b-{wanted}", "type": "paragraph", "paragraph": {"rich_text": rich}}], None
            )
        case "GET", ["pages", wanted] if found := [one for one in pages if one["id"] == wanted]:
            return reply(_page(visit, found[0]))
        case "POST", ["pages"]:
            parent = text(dict(visit.body), "parent", "page_id")
            title = text(dict(visit.body), "properties", "title", "title", 0, "text", "content")
            if not any(one["id"] == parent for one in pages):
                return _not_found()
            if not title:
                return reply(
                    {"object": "error", "status": 400, "code": "validation_error", "message": "no title"}, status=400
                )
            content = text(dict(visit.body), "children", 0, "paragraph", "rich_text", 0, "text", "content")
            made: Record = {"id": f"33333333-3333-4333-8333-{len(pages):012d}", "title": title, "text": content}
            pages.append(made)
            visit.note("notion", title)
            return reply(_page(visit, made))
        case "POST", ["comments"]:
            if not any(one["id"] == text(dict(visit.body), "parent", "page_id") for one in pages):
                return _not_found()
            said = text(dict(visit.body), "rich_text", 0, "text", "content")
            visit.note("notion", said)
            return reply({"object": "comment", "id": "c0ffee00-0000-4000-8000-000000000001"})
        case _:
            return _not_found()


def _page(visit: ServiceCall, one: Record) -> Record:
    return {
        "object": "page",
        "id": one["id"],
        "last_edited_time": visit.now(),
        "properties": {"title": {"type": "title", "title": [{"type": "text", "plain_text": one["title"]}]}},
        "url": f"https://www.notion.so/{str(one['id']).replace('-', '')}",
    }


def _list(results: list[JsonValue], following: str | None) -> Response:
    return reply({"object": "list", "results": results, "next_cursor": following, "has_more": following is not None})


def _not_found() -> Response:
    message = "Could not find page. Make sure the relevant pages are shared with your integration."
    return reply({"object": "error", "status": 404, "code": "object_not_found", "message": message}, status=404)
