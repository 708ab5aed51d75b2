"""Secrets of settings in a real OpenBao, its development server. Run by `make keyservices`."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import httpx2
import pytest

from providers.oauth.secret_references import SecretUnavailable
from server.secret_settings import SecretSettings
from server.secret_sources import SecretSources
from tests.keyservices.keys_at_services import program, run_service
from tests.support.processes import free_port

REFERENCE = "bao://secret/team/slack#client_secret"


@pytest.fixture
def address() -> Generator[str]:
    at = f"http://127.0.0.1:{free_port()}"
    command = (program("bao"), "server", "-dev", "-dev-root-token-id=root", "-dev-no-store-token")
    listen = f"-dev-listen-address={at.removeprefix('http://')}"
    with run_service(*command, listen, until=f"{at}/v1/sys/health"):
        yield at


def put(address: str, path: str, content: object) -> dict[str, object]:
    answer = httpx2.post(f"{address}/v1/{path}", headers={"X-Vault-Token": "root"}, json=content, timeout=30)
    assert answer.is_success, answer.text
    return json.loads(answer.content or b"{}")


async def test_openbao_gives_the_newest_version_to_a_token_that_may_read_it(address: str, tmp_path: Path) -> None:
    put(address, "secret/data/team/slack", {"data": {"client_secret": "first"}})
    put(address, "sys/policies/acl/reader", {"policy": 'path "secret/data/team/*" { capabilities = ["read"] }'})
    made = put(address, "auth/token/create", {"policies": ["reader"]})
    token = tmp_path / "token"
    token.write_text(str(made["auth"]["client_token"]))  # pyright: ignore[reportIndexIssue, reportArgumentType] -- JSON
    found = SecretSources(SecretSettings(openbao_url=address, openbao_token_file=token, cache=3600), environment={})
    assert await found.read(REFERENCE) == "first"
    put(address, "secret/data/team/slack", {"data": {"client_secret": "second"}})
    assert await found.read(REFERENCE) == "first"
    assert await found.read(REFERENCE, is_fresh=True) == "second"
    for reference, told in {
        "bao://secret/team/slack#other": "no such text field",
        "bao://secret/team/none#client_secret": "no such secret",
        "bao://secret/other/slack#client_secret": "denied access",
        "bao://none/team/slack#client_secret": "denied access",
    }.items():
        with pytest.raises(SecretUnavailable, match=told):
            await found.read(reference)
