"""Valid forms: a token bound to the browser's secret and to one action, and a check of the form's origin.

The third part, SameSite on the cookies, is in `server.sign_in.password`.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from starlette.requests import Request

FIELD: Final = "form_token"
PAGE: Final = "form_page"  # the address of the page that has the form


def form_token(key: bytes, browser_secret: str, *, action: str) -> str:
    """The token of the form that posts to `action` in the browser that holds `browser_secret`."""
    return token_of_session(key, hashlib.sha256(browser_secret.encode()).digest(), action=action)


def token_of_session(key: bytes, session_hash: bytes, *, action: str) -> str:
    """Like `form_token`, for a browser whose session the vault knows only by its hash."""
    return hmac.new(key, session_hash + action.encode(), hashlib.sha256).hexdigest()


def is_own_token(key: bytes, browser_secret: str, *, action: str, sent: str) -> bool:
    """Whether `sent` is this browser's token for this action."""
    expected = form_token(key, browser_secret, action=action)
    return hmac.compare_digest(expected.encode(), sent.encode("utf-8", "surrogatepass"))


def is_from_own_page(request: Request, *, public_url: str) -> bool:
    """Whether the browser reports that the form was on one of our pages.

    Our pages send no referrer, and browsers then write `Origin: null` on their forms; `Sec-Fetch-Site`, which pages
    cannot set, distinguishes them from a foreign sandboxed frame. Without either header the caller is not a browser,
    and the token decides.
    """
    origins = request.headers.getlist("origin")
    sites = request.headers.getlist("sec-fetch-site")
    if sites and sites not in (["same-origin"], ["none"]):
        return False
    if not origins:
        return True
    if origins == ["null"]:
        return sites == ["same-origin"]
    return origins == [public_url]
