"""`/readyz`: whether this process should get work, for load balancers. `/healthz` reports whether it is alive at
all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from server.deployment import Deployment
from server.errors import status_of
from vault.refusals import VaultError
from vault.upkeep import health

KEPT: Final = 1.0  # seconds that a verdict is cached: anyone may ask, and each check is a commit
PATIENCE: Final = 3.0  # seconds for all checks together
CHECKS: Final[tuple[tuple[str, Callable[[Deployment], Awaitable[None]]], ...]] = (
    ("schema", lambda d: health.check_schema(d.database)),
    ("keys", lambda d: health.check_keys(d.database, d.keys)),
    ("storage", lambda d: health.check_writable(d.database)),
)
logger = logging.getLogger("token_vault.readiness")


class _Readiness:
    """The latest verdict; the first request after it expires renews it."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._lock = asyncio.Lock()
        self._failing: tuple[str, str] | None = None
        self._until = 0.0

    async def find_problem(self) -> tuple[str, str] | None:
        """The part that isn't ready, and the code of the reason; None if everything is ready."""
        if self._deployment.drain.is_draining:
            return "draining", "ends"
        loop = asyncio.get_running_loop()
        async with self._lock:
            if loop.time() >= self._until:
                self._failing = await self._check()
                self._until = loop.time() + KEPT
            return self._failing

    async def _check(self) -> tuple[str, str] | None:
        name = "schema"
        try:
            async with asyncio.timeout(PATIENCE):
                for name, check in CHECKS:  # noqa: B007 -- named by the handlers below
                    await check(self._deployment)
        except TimeoutError:
            logger.warning("not ready", extra={"check": name, "code": "timeout"})
            return name, "timeout"
        except VaultError as error:
            logger.warning("not ready", extra={"check": name, "code": error.code, "detail": error.detail})
            return name, error.code
        return None


def ready_route(deployment: Deployment) -> Route:
    """`/readyz`: 200 if keys, schema, and storage work; otherwise 503 with the failing part and the reason."""
    readiness = _Readiness(deployment)

    async def readyz(request: Request) -> JSONResponse:
        failing = await readiness.find_problem()
        headers = {"cache-control": "no-store"}
        if failing is None:
            late = dict(sorted(deployment.failing_upkeep.items()))  # reported, but no reason to send calls elsewhere
            return JSONResponse({"status": "ready"} | ({"upkeep": late} if late else {}), headers=headers)
        later = {**headers, "retry-after": "1"}
        content = {"status": "not ready", "failing": failing[0], "reason": failing[1]}
        return JSONResponse(content, status_of("not_ready"), headers=later)

    return Route("/readyz", readyz, methods=["GET"])
