"""The message types of tasks (SEP-2663): offering a task, and requests about it. `server.mcp.tasks` answers them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal

from mcp_types import RequestParams, Result

TASKS: Final = "io.modelcontextprotocol/tasks"  # the extension that a client declares which follows tasks
METHODS: Final = ("tasks/get", "tasks/update", "tasks/cancel")
TTL: Final = 1_800_000  # milliseconds: ten minutes to answer, five to make the call, fifteen for its result
POLL: Final = 2_000  # milliseconds
TaskAnswer = dict[str, object]


class TaskParams(RequestParams):
    """Of each of `METHODS`."""

    task_id: str


class TaskOffered(Result):
    """`CreateTaskResult`: the call waits, and the client polls for its result."""

    result_type: Literal["task"] = "task"
    task_id: str
    status: Literal["working"] = "working"
    status_message: str
    created_at: str
    last_updated_at: str
    ttl_ms: int = TTL
    poll_interval_ms: int = POLL


def follows_tasks(extensions: Mapping[str, object] | None) -> bool:
    """Whether a client of 2026-07-28 with these extensions supports tasks."""
    return TASKS in (extensions or {})


def instant(moment: int) -> str:
    """A time in ISO 8601."""
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")
