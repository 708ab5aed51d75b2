"""Downloads: a redirect to an address that works without a credential, which the vault follows itself.

Several services answer a request for a file with such an address. Clients never see it: it would outlive the agent's
permission. The provider file names the hosts, and the request to them has no credential. Only there can clients ask for
a part of the answer: a part of the API's own could contain a part of the credential, which isn't recognized.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urldefrag, urljoin, urlsplit

from providers.api.masking import needles
from providers.definitions.model import Provider
from providers.outbound.addresses import matching_host

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from providers.outbound.sessions import StreamedAnswer

REDIRECTS: Final = frozenset(
    {
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.SEE_OTHER,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    }
)

NO_SUCH_PART: Final = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
_TELLING: Final = 16  # characters of a path; a shorter one is found only as part of the whole address


@dataclass(frozen=True, slots=True)
class Download:
    """The address that a file is at, and the host by which the provider file allows it."""

    url: str = field(repr=False)
    host: str

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """What finds the address in an answer."""
        parts = urlsplit(self.url)
        below = f"{parts.path}?{parts.query}" if parts.query else parts.path
        return needles(self.url if len(below) < _TELLING else below)


def find_download(provider: Provider, answer: StreamedAnswer, *, called: str, method: str) -> Download | None:
    """Where the answer to a GET or HEAD of this address redirects to, if that is a host of downloads."""
    if method not in {"GET", "HEAD"} or answer.status not in REDIRECTS:
        return None
    location = next((value for name, value in answer.headers if name.lower() == "location"), None)
    if location is None:
        return None
    url = urldefrag(urljoin(called, location)).url
    if any(url.startswith(base.rstrip("/") + "/") for base in provider.apis.values()):
        return None  # clients call it through the vault, where a rule decides
    host = matching_host(url, provider.proxied.downloads)
    return None if host is None else Download(url, host)


def download_headers(passed: Mapping[str, str], *, method: str, sent: Headers) -> dict[str, str]:
    """The headers of the request for the file, of those that pass and those that name a part (RFC 9110 §14.2)."""
    found = {name: value for name, value in passed.items() if name == "user-agent"}
    match method, sent.getlist("range"), sent.getlist("if-range"):
        case "GET", [part], []:
            return found | {"range": part}
        case "GET", [part], [condition]:
            return found | {"range": part, "if-range": condition}
        case _:
            return found


def is_file(answer: StreamedAnswer, *, asked: Mapping[str, str]) -> bool:
    """Whether the host answers with the file; if a part was asked for, also with that part, or that there is none.

    Not with a part of an encoded file, which can't be decoded.
    """
    if answer.status == HTTPStatus.PARTIAL_CONTENT:
        encodings = {value.strip().lower() for name, value in answer.headers if name.lower() == "content-encoding"}
        return "range" in asked and encodings <= {"identity"}
    return answer.status == HTTPStatus.OK or ("range" in asked and answer.status == NO_SUCH_PART)
