"""Whether a page refuses with the text from the catalog."""

from __future__ import annotations

import html

import httpx2

from server.http import page_texts


def is_refused(answer: httpx2.Response, name: str, status: int) -> bool:
    """Whether the page shows this refusal, with its title and what to do."""
    said = html.unescape(answer.text)
    words = page_texts.english()["refused"]
    return answer.status_code == status and words[f"{name}_title"] in said and words[name] in said
