"""The sign-in as a separate process, which continues when an impatient client ends the bridge.

Several clients give a server half a minute to start and then kill it with all its children, which is too short for a
person who types a password. The process shares only the stored credentials and their lock with the bridge.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import IO, Final

from server.bridge.refusals import BridgeRefused, SignInNeeded
from server.http.strict_json import json_object

_FAILURE: Final = "token-vault: "  # start of the program's last line


class SignInProcess:
    """The command line `stdio --url ... --sign-in --json` and its environment."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = tuple(command)
        self._environment = dict(environment)

    async def run(self, tell: Callable[[str], None]) -> None:
        """Run until the person is signed in; `tell` receives every line for them. Raises BridgeRefused or SignInNeeded.

        Cancelling this leaves the process running.
        """
        try:
            child = subprocess.Popen(  # noqa: S603, ASYNC220 -- our own program; asyncio's would be killed with the loop
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise BridgeRefused("couldn't start the sign-in: run it yourself with --sign-in") from error
        failure = ""
        out, out_transport = await _open_pipe(child.stdout)
        errors, errors_transport = await _open_pipe(child.stderr)
        with closing(out_transport), closing(errors_transport):
            async for line in errors:
                text = line.decode("utf-8", "replace").strip()
                if text.startswith(_FAILURE):
                    failure = text.removeprefix(_FAILURE)
                elif text:
                    tell(text)
            result = await out.read()
        if await asyncio.to_thread(child.wait) == 0:
            return
        raise _refusal(result, failure)


async def _open_pipe(pipe: IO[bytes] | None) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
    return reader, transport


def _refusal(result: bytes, failure: str) -> BridgeRefused:
    try:
        why = json_object(result).get("why")
    except (ValueError, json.JSONDecodeError):
        why = None
    return SignInNeeded(why) if isinstance(why, str) else BridgeRefused(failure or "the sign-in process ended")
