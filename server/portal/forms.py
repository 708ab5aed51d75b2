"""Read posted forms: bounded, urlencoded only, no field twice if one value is meant. Also a page's refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from server.administration.actor import ChangeRefused
from server.errors import PersonRefused
from server.http.bodies import BodyTooLarge, read_body
from server.http.page_texts import text

BODY_LIMIT: Final = 64 * 1024  # bytes
_FIELD_LIMIT: Final = 500


class PageRefused(PersonRefused):
    """A request that a page answers with an error page: the texts `refused.NAME_title` and `refused.NAME`.

    A `description` replaces the second text if another refusal had its own. No text ever comes from the sender.
    """

    code = "page_refused"

    def __init__(
        self, name: str, description: str = "", *, kind: str = "invalid_request", detail: str = "", **values: str
    ) -> None:
        super().__init__(description or text(f"refused.{name}", **values), kind=kind, detail=detail)
        self.title = text(f"refused.{name}_title", **values)

    @classmethod
    def of_change(cls, refused: ChangeRefused) -> PageRefused:
        """Of a change that an administrator cannot make."""
        kind = "conflict" if refused.kind == "changed_meanwhile" else refused.kind
        return cls(refused.reason, kind=kind, **refused.values)


@dataclass(frozen=True, slots=True)
class Form:
    """Posted fields; may hold passwords, so nothing shows in `repr`."""

    fields: Mapping[str, tuple[str, ...]] = field(repr=False, default_factory=dict[str, tuple[str, ...]])

    def one(self, name: str) -> str:
        """The value of a field, empty when it was not sent. Refuses a field sent twice."""
        values = self.fields.get(name, ())
        if len(values) > 1:
            raise PageRefused("form_twice")
        return values[0] if values else ""

    def many(self, name: str) -> frozenset[str]:
        """The selected values of a group of checkboxes."""
        return frozenset(self.fields.get(name, ()))


async def read_form(request: Request) -> Form:
    """The posted form. Raises PageRefused for anything but a small urlencoded form."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise PageRefused("form_type", kind="unsupported_form")
    try:
        body = await read_body(request.receive, limit=BODY_LIMIT)
    except BodyTooLarge as error:
        raise PageRefused("form_large", kind="body_too_large") from error
    except ClientDisconnect as error:
        raise PageRefused("form_cut") from error
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_FIELD_LIMIT)
    except (UnicodeError, ValueError) as error:
        raise PageRefused("form_bytes") from error
    if any("\0" in name or "\0" in value for name, value in pairs):  # no database stores it
        raise PageRefused("form_bytes")
    fields: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        fields[name] = (*fields.get(name, ()), value)
    return Form(fields)
