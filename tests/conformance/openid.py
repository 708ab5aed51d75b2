"""Run the end-to-end tests of `openid-client` and `oauth4webapi` against a running vault: `make openid CHECKOUTS=DIR`.

Checkouts are those of github.com/panva, after `npm ci --ignore-scripts`; nothing of theirs is kept here. Their tests
expect their own server at a fixed address, which signs the person in when told (`/drive`): a shim in front of the vault
does that, and the tests run in a copy with the shim's address. `GAPS` names what doesn't apply.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.administration import agents, own_apis
from server.administration.actor import Actor
from server.administration.agents import NewAgent, OwnApisSpec
from server.app import build_app
from tests.conformance.report import write_openid
from tests.support.foreign.foreign import Somebody, environment, newcomer
from tests.support.harness import PASSWORD, RunningVault, free_socket, running_vault, serve_app

GAPS: Final[Mapping[str, str]] = {
    "end2end-ciba": "they approve through their own server's /ciba-sim; tests/oauth has the vault's",
    "encryption": "no token is encrypted to a client",
    "jar": "no request objects",
    "jarm": "responses are plain query parameters",
    "hybrid": "the only response type is code",
    "implicit": "the only response type is code",
    "jwtUserinfo": "userinfo isn't signed",
    "jwtIntrospection": "introspection isn't signed",
    "client_secret_jwt": "no client authentication with a shared key",
    "revocation none": "a client that acts for itself has a credential",
}
_ORIGIN: Final = "http://localhost:3000"  # in the tests
_API: Final = "urn:example:resource:"
_CALLBACK: Final = "http://localhost:8080/cb"
_DEVICE: Final = "urn:ietf:params:oauth:grant-type:device_code"
_PATIENCE: Final = 300.0  # seconds for all tests of one checkout
_RESULT: Final = re.compile(r"^(ok|not ok) \d+ (end2end\S* > .+)$", re.MULTILINE)


@dataclass(frozen=True)
class Result:
    """One test of a checkout."""

    name: str
    is_passed: bool

    @property
    def gap(self) -> str | None:
        """Why it doesn't apply."""
        return next((why for words, why in GAPS.items() if re.search(rf"\b{words}\b", self.name)), None)


def shim(app: ASGIApp, vault: RunningVault, somebody: Somebody) -> ASGIApp:
    """The vault, and what the tests' own server does besides: it signs in, and registers any client by itself."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        answer: Response | None = None
        if scope["type"] == "http" and scope["path"] in {"/drive", "/register"}:
            body = await Request(scope, receive).body()
            if scope["path"] == "/drive":
                form = parse_qs(body.decode())
                answer = PlainTextResponse(await _drive(somebody, form["goto"][0], denies="cancel" in form))
            else:
                answer = await _register(vault, json.loads(body))
            receive = _replay(body)
        is_device = scope["type"] == "http" and scope["path"] == "/device_authorization"
        await (answer or app)(scope, receive, _with_whole_address(send) if is_device else send)

    return handle


def _with_whole_address(send: Send) -> Send:
    """Add the address with the code, which the vault never gives (RFC 8628 §5.4), for the shim's person to open."""
    started: list[Message] = []

    async def forward(message: Message) -> None:
        if message["type"] == "http.response.start":
            started.append(message)
            return
        told = json.loads(message["body"])
        if "user_code" in told:
            told["verification_uri_complete"] = f"{told['verification_uri']}?user_code={told['user_code']}"
        body = json.dumps(told).encode()
        headers = [one for one in started[0]["headers"] if one[0] != b"content-length"]
        await send({**started[0], "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await send({**message, "body": body})

    return forward


def _replay(body: bytes) -> Receive:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _drive(somebody: Somebody, url: str, *, denies: bool) -> str:
    """What the person does with a URL; returns where the vault sends the browser."""
    browser, decision = somebody.browser, ("decision", "deny" if denies else "allow")
    page = await browser.open(url)
    if "/sign-in" in page.url.path:
        page = await browser.sign_in(somebody.name, PASSWORD, page=page)
    if code := parse_qs(urlsplit(url).query).get("user_code"):
        page = await browser.submit(await browser.open("/device"), {"user_code": code[0]}, form="/device")
        await browser.submit(page, form="/consent", button=decision)
        return url
    if page.status_code == 200:
        page = await browser.submit(page, form="/consent", button=decision)
    return page.headers.get("location", f"{_CALLBACK}?error=server_error")


async def _register(vault: RunningVault, asked: dict[str, Any]) -> Response | None:
    """Register a client that an admin of a vault registers; None for one that registers itself."""
    grant_types, method = asked["grant_types"], asked["token_endpoint_auth_method"]
    if "authorization_code" in grant_types or "implicit" in grant_types:
        return None
    if _DEVICE not in grant_types and "client_credentials" not in grant_types:
        return JSONResponse({"error": "invalid_client_metadata"}, status_code=400)
    has_keys = method == "private_key_jwt"
    wanted = NewAgent(
        name="Registered",
        redirect_uris=(_CALLBACK,) if _DEVICE in grant_types else (),
        has_secret=not has_keys,
        jwks=asked["jwks"] if has_keys else None,
        resources=(f"{_API}jwt", f"{_API}opaque"),
        by_device=_DEVICE in grant_types,
        by_itself=OwnApisSpec(frozenset({"api:write"})) if "client_credentials" in grant_types else None,
    )
    made = await agents.register(Actor(vault.deployment, None, "command_line"), wanted)
    registered: dict[str, object] = {"client_id": made.client.id, "token_endpoint_auth_method": method}
    if made.secret is not None:
        registered |= {"client_secret": made.secret, "client_secret_expires_at": 0}
    return JSONResponse({**registered, "grant_types": grant_types, "redirect_uris": []}, status_code=201)


async def run(checkout: Path) -> Sequence[Result]:
    """Run the tests of one checkout against a new vault."""
    listening = free_socket()
    origin = f"http://localhost:{listening.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy = _copy(checkout, folder / "checkout", origin)
        settings = {"server": {"public_url": origin}, "registration": {"mode": "open"}}
        async with running_vault(folder / "data", overrides=settings) as vault, newcomer(vault) as somebody:
            for kind in ("jwt", "opaque"):
                actor = Actor(vault.deployment, None, "command_line")
                await own_apis.save(actor, f"{_API}{kind}", name=kind, scopes=["api:write"])
            async with serve_app(shim(build_app(vault.deployment), vault, somebody), listening):
                said = await _node(copy, folder)
    found = [Result(name, word == "ok") for word, name in _RESULT.findall(said)]
    assert found, f"{checkout} ran no tests:\n{said[-3000:]}"
    failed = {one.name for one in found if not one.is_passed and one.gap is None}
    for part in re.split(r"(?m)^(?=not ok )", said):
        if (match := _RESULT.match(part)) and match[2] in failed:
            print("\n".join(part.splitlines()[:12]))
    return found


def _copy(checkout: Path, copy: Path, origin: str) -> Path:
    copy.mkdir()
    for part in ("src", "tap"):
        shutil.copytree(checkout / part, copy / part)
    shutil.copy(checkout / "package.json", copy)
    (copy / "node_modules").symlink_to((checkout / "node_modules").absolute())
    for file in (copy / "tap").glob("*.ts"):
        file.write_text(file.read_text(encoding="utf-8").replace(_ORIGIN, origin), encoding="utf-8")
    return copy


async def _node(copy: Path, folder: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        shutil.which("node") or "node", "--import=ts-blank-space/register", "tap/run-node.ts",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env=environment(folder), cwd=copy,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_PATIENCE):
            out, _ = await process.communicate()
        return out.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def main() -> None:
    """Run every checkout, and print what passed, failed, and doesn't apply."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.openid", description=__doc__)
    parser.add_argument("checkouts", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true", help="write docs/evidence/conformance.md")
    parser.add_argument("--rounds", type=int, default=3, help="the tests choose some parameters at random")
    chosen, failed, lines = parser.parse_args(), 0, dict[str, None]()
    for checkout in chosen.checkouts:
        about = json.loads((checkout / "package.json").read_text(encoding="utf-8"))
        for _ in range(chosen.rounds):
            found = asyncio.run(run(checkout))
            applying = [one for one in found if one.gap is None]
            wrong = [one.name for one in applying if not one.is_passed]
            failed += len(wrong)
            counted = (
                f"{len(applying) - len(wrong)} passed, {len(wrong)} failed, {len(found) - len(applying)} don't apply"
            )
            print(line := f"`{about['name']}` {about['version']}: {counted}")
            lines[line] = None
    if chosen.write:
        write_openid(lines)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
