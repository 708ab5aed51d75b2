"""Runs `vault.tool` in each unmodified agent framework, with a model that calls it once; prints the result.

Run by `.venv/sdks/clients` with the facts in PLACE (JSON). The model is scripted; framework, client, vault and provider
communicate over real HTTP.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
from functools import partial

import httpx2
from token_vault_client import AsyncVault, UpstreamToken, Vault, acting_for

PLACE = json.loads(os.environ["PLACE"])
vault = Vault(PLACE["url"], client_id=PLACE["client_id"], client_secret=PLACE["client_secret"])
async_vault = AsyncVault(PLACE["url"], client_id=PLACE["client_id"], client_secret=PLACE["client_secret"])
ARGUMENTS = {"channel": "#general"}


@vault.tool("slack", scopes=["channels:history"])
def look(channel: str, *, token: UpstreamToken) -> str:
    """Look at a channel."""
    assert channel == "#general"
    return f"granted {' '.join(sorted(token.scopes))} at {token.api_base_url is not None}"


@async_vault.tool("slack", scopes=["channels:history"])
async def look_async(channel: str, *, token: UpstreamToken) -> str:
    """Look at a channel."""
    assert channel == "#general"
    return f"granted {' '.join(sorted(token.scopes))} at {token.api_base_url is not None}"


def langgraph() -> str:
    from langchain_core.messages import AIMessage
    from langchain_core.tools import tool
    from langgraph.graph import END, START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode

    made = tool(look)
    assert set(made.args) == {"channel"}, made.args
    call = {"name": "look", "args": ARGUMENTS, "id": "1", "type": "tool_call"}
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [AIMessage("", tool_calls=[call])]})
    graph.add_node("tools", ToolNode([made]))
    graph.add_edge(START, "model")
    graph.add_edge("model", "tools")
    graph.add_edge("tools", END)
    return graph.compile().invoke({"messages": []})["messages"][-1].content


async def llama_index() -> str:
    from llama_index.core.tools import FunctionTool

    made = FunctionTool.from_defaults(async_fn=look_async, name="look", description="Look")
    assert set(made.metadata.get_parameters_dict()["properties"]) == {"channel"}
    return str(await made.acall(**ARGUMENTS))


async def openai_agents() -> str:
    from agents import Agent, Model, ModelResponse, Runner, Usage, function_tool, set_tracing_disabled
    from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

    set_tracing_disabled(True)

    class ScriptedModel(Model):
        async def get_response(self, *args: object, **kwargs: object) -> ModelResponse:
            items = next(one for one in (*args, *kwargs.values()) if isinstance(one, list))
            answered = [one for one in items if isinstance(one, dict) and one.get("type") == "function_call_output"]
            if answered:
                text = ResponseOutputText(annotations=[], text=str(answered[-1]["output"]), type="output_text")
                done = ResponseOutputMessage(
                    id="m", content=[text], role="assistant", status="completed", type="message"
                )
                return ModelResponse(output=[done], usage=Usage(), response_id=None)
            call = ResponseFunctionToolCall(
                arguments=json.dumps(ARGUMENTS), call_id="1", name="look_async", type="function_call"
            )
            return ModelResponse(output=[call], usage=Usage(), response_id=None)

        def stream_response(self, *args: object, **kwargs: object):
            raise NotImplementedError

    made = function_tool(look_async)
    assert set(made.params_json_schema["properties"]) == {"channel"}
    agent = Agent(name="a", instructions="", model=ScriptedModel(), tools=[made])
    return str((await Runner.run(agent, "look", max_turns=3)).final_output)


async def pydantic_ai() -> str:
    from pydantic_ai import Agent
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, ToolReturnPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel

    def scripted_answer(messages: list, info: AgentInfo) -> ModelResponse:
        returned = [part for one in messages for part in one.parts if isinstance(part, ToolReturnPart)]
        if returned:
            return ModelResponse(parts=[TextPart(str(returned[-1].content))])
        (one,) = info.function_tools
        assert set(one.parameters_json_schema["properties"]) == {"channel"}
        return ModelResponse(parts=[ToolCallPart(one.name, ARGUMENTS)])

    agent = Agent(FunctionModel(scripted_answer))
    agent.tool_plain(look_async)
    return str((await agent.run("look")).output)


async def fastapi(subject: str) -> str:
    return await _in_fastapi(async_vault, subject)


async def fastapi_without_await(subject: str) -> str:
    return await _in_fastapi(vault, subject)


async def _in_fastapi(client: AsyncVault | Vault, subject: str) -> str:
    from fastapi import Depends, FastAPI
    from token_vault_client.fastapi import UpstreamTokenOf

    app = FastAPI()
    needed = UpstreamTokenOf(client, "slack", scopes=["channels:history"])

    async def show(token: UpstreamToken = Depends(needed)) -> str:  # noqa: B008 -- FastAPI's way
        return f"granted {' '.join(sorted(token.scopes))} at {token.api_base_url is not None}"

    app.get("/")(show)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://app", timeout=30) as http:
        bare = await http.get("/")
        assert bare.status_code == 401, bare.text
        answer = await http.get("/", headers={"Authorization": f"Bearer {subject}"})
        if answer.status_code == 403:
            return str(answer.json()["detail"])
        return str(answer.json())


async def main() -> None:
    for who, subject in PLACE["subjects"].items():
        in_fastapi = (partial(fastapi, subject), partial(fastapi_without_await, subject))
        for run in (langgraph, llama_index, openai_agents, pydantic_ai, *in_fastapi):
            with acting_for(subject):
                try:
                    said = run()
                    said = await said if inspect.isawaitable(said) else said
                except Exception as error:  # noqa: BLE001 -- what the framework makes of it is the result
                    said = f"{type(error).__name__}: {error}"
            name = run.func.__name__ if isinstance(run, partial) else run.__name__
            print(json.dumps({"framework": name, "who": who, "said": said}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
    sys.stdout.flush()
