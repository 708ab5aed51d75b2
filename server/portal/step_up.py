"""Send a person who must sign in again or use a passkey to that page, and back."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from server.http.page_texts import text
from server.portal.texts import refusal_words
from server.sign_in.step_up import StepUpRequired


def link_of(needed: StepUpRequired, *, back: str) -> str:
    """The page of ours where the person does what is needed; it leads on to `back`."""
    if needed.needs == "new_passkey":
        return f"/account?{_query({'return_to': back})}#passkeys"
    asked = {"again": "1", "return_to": back}
    return f"/sign-in?{_query(asked | ({'need': 'passkey'} if needed.needs == 'passkey' else {}))}"


def page_of(needed: StepUpRequired, *, back: str) -> dict[str, object]:
    """What the page of the refusal says."""
    return {
        "title": text("step_up.title"),
        "message": refusal_words(needed),
        "link": link_of(needed, back=needed.back or back),
        "action": text(f"step_up.{needed.needs}"),
    }


def _query(values: dict[str, str]) -> str:
    return urlencode(values, quote_via=quote)
