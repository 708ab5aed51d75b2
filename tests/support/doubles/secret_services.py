"""Stand-ins for secret sources, written from their documentation. No real service was asked.

1Password Connect Server (API reference 1.8.1), OpenBao's KV version 2, and the commands `op read` and `bws secret get`.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from tests.support.doubles.scripted_server import Arrival, Reply, json_reply

CONNECT_TOKEN = "connect-token-canary"
BAO_TOKEN = "s.bao-token-canary"
VAULT_ID, ITEM_ID = "v" * 26, "i" * 26


def connect(fields: list[dict[str, object]]) -> Callable[[Arrival], Reply]:
    """One vault, Infra, with one item, Slack."""

    def answer(arrival: Arrival) -> Reply:
        if arrival.headers.get("authorization") != f"Bearer {CONNECT_TOKEN}":
            return json_reply({"status": 401, "message": "Invalid token signature"}, status=401)
        wanted = arrival.query.get("filter")
        match arrival.path.removeprefix("/v1").strip("/").split("/"):
            case ["vaults"]:
                return json_reply([{"id": VAULT_ID, "name": "Infra"}] if wanted == 'name eq "Infra"' else [])
            case ["vaults", str(vault), "items"] if vault == VAULT_ID:
                return json_reply([{"id": ITEM_ID, "title": "Slack"}] if wanted == 'title eq "Slack"' else [])
            case ["vaults", str(vault), "items", str(item)] if (vault, item) == (VAULT_ID, ITEM_ID):
                sections = [{"id": "s1", "label": "old"}]
                return json_reply({"id": ITEM_ID, "title": "Slack", "sections": sections, "fields": fields})
            case _:
                return json_reply({"status": 404, "message": "Item not found"}, status=404)

    return answer


def openbao_settings(url: str, *entered: str) -> dict[str, object]:
    """Settings of a vault that reads secrets there each time; people may enter references with this prefix."""
    return {"cache": 0, "entered": list(entered), "openbao_url": url, "openbao_token": BAO_TOKEN}


def openbao(secrets: dict[str, dict[str, str]]) -> Callable[[Arrival], Reply]:
    """An engine at `secret`; the token may not read a path that begins with `denied`."""

    def answer(arrival: Arrival) -> Reply:
        path = unquote(arrival.path).removeprefix("/v1/secret/data/")
        if arrival.headers.get("x-vault-token") != BAO_TOKEN or path.startswith("denied"):
            return json_reply({"errors": ["1 error occurred:\n\t* permission denied\n\n"]}, status=403)
        if path not in secrets:
            return json_reply({"errors": []}, status=404)
        return json_reply({"data": {"data": secrets[path], "metadata": {"version": 1}}})

    return answer


def command(folder: Path, name: str, script: str) -> Path:
    """A program with that name; `$1` and so on are its arguments."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return folder


def op_script(reference: str, secret: str) -> str:
    """`op read --no-newline REFERENCE`, with a service account's token."""
    return (
        '[ "$OP_SERVICE_ACCOUNT_TOKEN" = ops_canary ] || { echo "[ERROR] not signed in" >&2; exit 1; }\n'
        f'[ "$1 $2 $3" = "read --no-newline {reference}" ] || {{ echo "[ERROR] not found" >&2; exit 1; }}\n'
        f"printf %s '{secret}'"
    )


def bws_script(identity: str, secret: str) -> str:
    """`bws secret get ID --output json`, with a machine account's token."""
    answer = json.dumps({"object": "secret", "id": identity, "key": "slack", "value": secret, "note": ""})
    return (
        '[ "$BWS_ACCESS_TOKEN" = 0.canary ] || { echo "Error: Access token is not in a valid format" >&2; exit 1; }\n'
        f'[ "$1 $2 $3" = "secret get {identity}" ] || {{ echo "Error: 404 Not Found" >&2; exit 1; }}\n'
        f"echo '{answer}'"
    )
