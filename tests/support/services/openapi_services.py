"""Services that answer as their published OpenAPI documents say: `tests/generating/openapi.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from starlette.responses import Response

from tests.support.services.desk import ServiceCall, reply

_KEPT = Path(__file__).parents[2] / "data" / "published_answers.json"
SERVICES: Mapping[str, object] = json.loads(_KEPT.read_text(encoding="utf-8"))


def answer_of(service: str) -> Callable[[ServiceCall], Response]:
    """This service's answer: the same for every call of an operation."""
    known = [
        (operation.partition(" ")[0], re.compile(operation.partition(" ")[2].replace("{}", "[^/]+")), told)
        for operation, told in SERVICES[service]["answers"].items()
    ]

    def answer(visit: ServiceCall) -> Response:
        path = "/" + "/".join(visit.parts)
        for method, pattern, told in known:
            if method == visit.call.method and pattern.fullmatch(path):
                return reply(told["body"], status=told["status"])
        return reply({"errors": [{"message": "not found"}]}, status=404)

    return answer
