"""A model of Anthropic's Messages API that follows a script, for unmodified clients that need a model to call tools.

It streams as the API does (`POST /v1/messages` with `stream`): first what the script says for these messages, then an
end. Source: the API's reference, "Streaming messages", as of November 2026.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.harness import serve_app
from tests.support.rooms.oauth_world import listening_socket


@dataclass(frozen=True)
class Call:
    """A tool that the model wants to call."""

    name: str
    arguments: dict[str, object]


@dataclass
class Turn:
    """What the client has sent: the messages so far with the model's calls and their results, and the tools."""

    body: dict[str, Any]

    @property
    def tools(self) -> frozenset[str]:
        """The tools whose schemas the client sent."""
        return frozenset(tool["name"] for tool in self.body.get("tools", []))

    @property
    def says(self) -> str:
        """Everything in the messages, as one text; it contains the names of tools that are loaded later."""
        return json.dumps(self.body.get("messages", []))

    @property
    def results(self) -> list[dict[str, Any]]:
        """The results of tools, in order."""
        blocks = (message["content"] for message in self.body["messages"] if isinstance(message["content"], list))
        return [block for content in blocks for block in content if block.get("type") == "tool_result"]


Script = Callable[[Turn], Awaitable[Call | str]]


@dataclass
class ScriptedModel:
    """The running model: its address, and every turn so far."""

    url: str
    turns: list[Turn] = field(default_factory=list)


@asynccontextmanager
async def scripted_model(script: Script) -> AsyncGenerator[ScriptedModel]:
    """Answer with what the script returns for each turn that has tools; text ends the conversation."""

    async def messages(request: Request) -> Response:
        turn = Turn(await request.json())
        model.turns.append(turn)
        said = await script(turn) if turn.tools else "Done."
        return StreamingResponse(_events(said, number=len(model.turns)), media_type="text/event-stream")

    async def count(_request: Request) -> Response:
        return JSONResponse({"input_tokens": 1})

    listening = listening_socket()
    model = ScriptedModel(f"http://127.0.0.1:{listening.getsockname()[1]}")
    routes = [
        Route("/v1/messages", messages, methods=["POST"]),
        Route("/v1/messages/count_tokens", count, methods=["POST"]),
    ]
    async with serve_app(Starlette(routes=routes), listening):
        yield model


def _events(said: Call | str, *, number: int) -> Iterator[str]:
    if isinstance(said, Call):
        block = {"type": "tool_use", "id": f"toolu_{number}", "name": said.name, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(said.arguments)}
    else:
        block, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": said}
    message = {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": "scripted",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    stop = {"stop_reason": "tool_use" if isinstance(said, Call) else "end_turn", "stop_sequence": None}
    for event in (
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    ):
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
