"""The OpenAPI document is accurate: valid and invalid requests made from it get the answers that it describes.

Schemathesis makes the requests. A longer run: SCHEMATHESIS_EXAMPLES=200 make test TESTS=tests/api/test_admin_openapi.py
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

import httpx2
import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi import checks

from server.api.document import document_answer, openapi_document
from server.api.endpoint import sufficient_scopes
from server.api.table import OPERATIONS
from server.oauth.rules import ADMIN_SCOPES
from tests.support.rooms.admin_room import AdminRoom, running_admin_room

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "2"))
OURS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
# Waits up to 20 s for a provider; other tests cover it
SLOW = {"test_provider"}
NAMES = [one.name for _, group in OPERATIONS for one in group if one.name not in SLOW]
ENDING = {"end_all_access"}  # also the token of the other tests: `tests/api/test_bulk_ends.py`


@pytest.fixture(scope="module")
async def room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[AdminRoom]:
    place = tmp_path_factory.mktemp("openapi") / "vault"
    async with running_admin_room(place, admin={"requests_per_minute": 1_000_000}) as opened:
        yield opened


@pytest.fixture(scope="module")
def operations(room: AdminRoom) -> dict[str, APIOperation]:
    """The document's operations, by name."""
    found = [one.ok() for one in schemathesis.openapi.from_dict(openapi_document(room.room.url)).get_all_operations()]
    return {one.definition.raw["operationId"]: one for one in found}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ENDING])
async def test_an_operation_answers_as_the_document_says(
    room: AdminRoom, operations: dict[str, APIOperation], name: str
) -> None:
    operation = operations[name]
    headers = {"Authorization": f"Bearer {room.token}"}

    def run(mode: schemathesis.GenerationMode) -> None:
        @given(data=st.data())
        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def try_it(data: st.DataObject) -> None:
            case = data.draw(operation.as_strategy(generation_mode=mode))
            response = case.call(base_url=room.room.url, headers=headers)
            if response.status_code in {414, 431}:  # refused before the API: the URL or the headers are too long
                return
            if response.status_code == 404 and "%0A" in urlsplit(response.request.url).path:
                return  # no route accepts a line break
            # An oversized body is refused before its fields are read, which Schemathesis doesn't expect
            is_too_large = response.status_code == 413
            checked = [one for one in OURS if not (is_too_large and one is checks.negative_data_rejection)]
            case.validate_response(response, checks=checked, headers=headers)

        try_it()

    await asyncio.to_thread(run, schemathesis.GenerationMode.POSITIVE)
    if operation.query or operation.body or operation.path_parameters:
        await asyncio.to_thread(run, schemathesis.GenerationMode.NEGATIVE)


@pytest.mark.parametrize("name", NAMES)
async def test_an_operation_refuses_a_token_without_its_scope_and_none_at_all(room: AdminRoom, name: str) -> None:
    """The twin is the test above: the same operations answer with the scope."""
    one = next(found for _, group in OPERATIONS for found in group if found.name == name)
    path = "/admin/v1" + one.template.replace("{", "").replace("}", "")
    bare = await room.http.request(one.method, path)
    assert bare.status_code == 401
    others = ADMIN_SCOPES - sufficient_scopes(one)
    cache = _tokens.setdefault(id(room), {})
    if one.scope not in cache:
        cache[one.scope] = await room.token_with(*others)
    refused = await room.http.request(one.method, path, headers={"Authorization": f"Bearer {cache[one.scope]}"})
    assert refused.status_code == 403
    assert refused.json()["code"] == "insufficient_scope"


_tokens: dict[int, dict[str, str]] = {}


async def test_anyone_may_request_the_document_so_it_is_written_once(room: AdminRoom) -> None:
    first, second = (document_answer(room.room.deployment) for _ in range(2))
    assert first.body is second.body
    assert (await room.http.get("/admin/v1/openapi.json")).content == first.body


async def test_the_document_is_valid_and_says_what_each_operation_needs(room: AdminRoom) -> None:
    document = (await room.http.get("/admin/v1/openapi.json")).json()
    assert document == httpx2.Response(200, json=openapi_document(room.room.url)).json()
    assert document["openapi"] == "3.1.0"
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    named = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert named <= set(document["components"]["schemas"])
    scopes = document["components"]["securitySchemes"]["oauth"]["flows"]["clientCredentials"]["scopes"]
    assert set(scopes) == ADMIN_SCOPES
    names = [one["operationId"] for path in document["paths"].values() for one in path.values()]
    assert len(names) == len(set(names)) > 35
    for path in document["paths"].values():
        for one in path.values():
            assert one["summary"]
            assert one["security"]
