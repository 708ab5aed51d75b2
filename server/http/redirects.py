"""Builds addresses that take a browser somewhere with an answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode


def with_parameters(uri: str, parameters: Mapping[str, str]) -> str:
    """`uri` with parameters appended to its query; everything is percent-encoded, so nothing can be injected."""
    return f"{uri}{'&' if '?' in uri else '?'}{urlencode(parameters)}"
