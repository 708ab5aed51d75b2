"""A GitHub with one repository on loopback: a few answers of its REST API, and git's own server behind `/git`.

It requires the token in the same form as the real one: `Bearer` or `token` for the API, Basic with `x-access-token` for
git. Other git hosts are further folders of its server, each with its own Basic user name.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from tests.conftest import unavailable
from tests.support.harness import free_socket, serve_app

OWNER, NAME = "octo", "hello"


@dataclass
class GitHost:
    """Where it listens, and what arrived: method, path, and Authorization."""

    folder: Path
    token: str
    url: str = ""
    users: dict[str, str] = field(default_factory=lambda: {"git": "x-access-token"})  # by the first part of paths
    arrivals: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])

    @property
    def repository(self) -> Path:
        return self.folder / OWNER / f"{NAME}.git"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        path, given = scope["path"], headers.get("authorization", "")
        self.arrivals.append((scope["method"], path, given))
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        if path.split("/")[1] in self.users and "/api/" not in path:
            await self._git(scope, headers, bytes(body), send)
            return
        if given != f"Bearer {self.token}":
            await _answer(send, 401, {"message": "Bad credentials"})
        elif path == "/rest/user":
            await _answer(send, 200, {"login": "alice", "id": 1, "html_url": "https://github.com/alice"})
        elif path == "/rest/user/repos":
            link = f'<{self.url}/rest/user/repos?page=2>; rel="next"'
            page = b"page=2" in scope["query_string"]
            await _answer(send, 200, [{"full_name": f"{OWNER}/{2 if page else 1}"}], link="" if page else link)
        else:
            await _answer(send, 404, {"message": "Not Found"})

    async def _git(self, scope: Scope, headers: dict[str, str], body: bytes, send: Send) -> None:
        first, _, below = scope["path"].removeprefix("/").partition("/")
        pair = b64encode(f"{self.users[first]}:{self.token}".encode()).decode()
        if headers.get("authorization") != f"Basic {pair}":
            await _answer(send, 401, {"message": "Bad credentials"})
            return
        environment = os.environ | {
            "GIT_PROJECT_ROOT": str(self.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": f"/{below}",
            "REQUEST_METHOD": scope["method"],
            "QUERY_STRING": scope["query_string"].decode(),
            "CONTENT_TYPE": headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": headers.get("git-protocol", ""),
            "REMOTE_USER": "alice",
        }
        process = await asyncio.create_subprocess_exec(
            "git", "http-backend", env=environment, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        written, _ = await process.communicate(body)
        head, _, content = written.partition(b"\r\n\r\n")
        fields = [tuple(part.strip() for part in line.split(b":", 1)) for line in head.split(b"\r\n")]
        status = next((int(value.split()[0]) for name, value in fields if name == b"Status"), 200)
        kept = [(name.lower(), value) for name, value in fields if name != b"Status"]
        await send({"type": "http.response.start", "status": status, "headers": kept})
        await send({"type": "http.response.body", "body": content})


async def _answer(send: Send, status: int, content: object, *, link: str = "") -> None:
    headers = [(b"content-type", b"application/json"), *([(b"link", link.encode())] if link else [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


@asynccontextmanager
async def git_host(folder: Path, *, token: str) -> AsyncGenerator[GitHost]:
    """Serve until the block ends; the repository has one commit, on `main`."""
    if shutil.which("git") is None:
        unavailable("git isn't installed")
    host = GitHost(folder, token)
    host.repository.mkdir(parents=True)
    for arguments in (
        ["init", "-q", "--bare", "-b", "main"],
        ["config", "http.receivepack", "true"],
    ):
        subprocess.run(["git", *arguments], cwd=host.repository, check=True)
    blob = subprocess.run(
        ["git", "hash-object", "-w", "--stdin"], cwd=host.repository, input=b"hello\n", capture_output=True, check=True
    ).stdout.strip()
    tree = subprocess.run(
        ["git", "mktree"],
        cwd=host.repository,
        input=b"100644 blob " + blob + b"\tREADME\n",
        capture_output=True,
        check=True,
    ).stdout.strip()
    named = [
        value for who in ("author", "committer") for value in (f"GIT_{who.upper()}_NAME", f"GIT_{who.upper()}_EMAIL")
    ]
    environment = os.environ | dict.fromkeys(named, "a@example")
    commit = subprocess.run(
        ["git", "commit-tree", "-m", "first", tree.decode()],
        cwd=host.repository, env=environment, capture_output=True, check=True,
    ).stdout.strip()  # fmt: skip
    subprocess.run(["git", "update-ref", "refs/heads/main", commit.decode()], cwd=host.repository, check=True)
    listening = free_socket()
    host.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with serve_app(Starlette(routes=[Mount("/", app=host)]), listening):
        yield host
