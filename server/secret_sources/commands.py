"""Secret sources that are read by their own commands: `op` of 1Password and `bws` of Bitwarden Secrets Manager.

Written from their documentation: developer.1password.com, `op read`; bitwarden.com, Secrets Manager CLI. Tokens go in
the command's environment, never in its arguments, which every user of the machine can read.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from providers.credentials.references import Reference
from providers.oauth.secret_references import SecretUnavailable
from providers.outbound.json_values import is_object
from server.provider_settings import SettingsRefused
from server.secret_settings import SecretSettings

_PASSED: Final = frozenset({"PATH", "HOME", "XDG_CONFIG_HOME", "LANG", "TMPDIR", "HTTPS_PROXY", "SSL_CERT_FILE"})


async def read_with_op(reference: Reference, settings: SecretSettings, environment: Mapping[str, str]) -> str:
    """Run `op read`, signed in with a service account's token or as the current user. Raises SecretUnavailable."""
    given = _token(reference, settings, "onepassword", environment, "OP_SERVICE_ACCOUNT_TOKEN")
    return await _run(reference, ["op", "read", "--no-newline", reference.text], environment, given)


async def read_bitwarden(reference: Reference, settings: SecretSettings, environment: Mapping[str, str]) -> str:
    """Run `bws secret get`. Raises SecretUnavailable."""
    given = _token(reference, settings, "bitwarden", environment, "BWS_ACCESS_TOKEN")
    if settings.bitwarden_url is not None:
        given["BWS_SERVER_URL"] = settings.bitwarden_url
    command = ["bws", "secret", "get", reference.field, "--output", "json", "--color", "no"]
    written = await _run(reference, command, environment, given)
    try:
        content: object = json.loads(written)
    except ValueError:
        content = None
    value = content.get("value") if is_object(content) else None
    if not isinstance(value, str):
        raise SecretUnavailable(f"{reference.text}: bws printed no secret; update bws.")
    return value


def _token(
    reference: Reference, settings: SecretSettings, source: str, environment: Mapping[str, str], variable: str
) -> dict[str, str]:
    try:
        token = settings.token(source) or environment.get(variable)
    except SettingsRefused as error:
        raise SecretUnavailable(f"{reference.text} can't be read: {error}") from error
    return {} if token is None else {variable: token}


async def _run(
    reference: Reference, command: Sequence[str], environment: Mapping[str, str], given: Mapping[str, str]
) -> str:
    program = shutil.which(command[0], path=environment.get("PATH"))
    if program is None:
        raise SecretUnavailable(f"{reference.text} can't be read: install the command {command[0]} here.")
    kept = {name: value for name, value in environment.items() if name in _PASSED}
    process = await asyncio.create_subprocess_exec(
        program,
        *command[1:],
        env={**kept, **given},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # its output may repeat its input
    )
    try:
        written, _ = await process.communicate()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise SecretUnavailable(
            f"{reference.text} can't be read: {command[0]} ended with {process.returncode}; check the reference, and "
            f"whether its token can read it (try {' '.join(command)})."
        )
    return written.decode("utf-8", "replace")
