"""A LangGraph tool that posts to Slack as the person whose access token the graph is called with."""

import os

import httpx
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.graph import MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from slack_sdk import WebClient


@tool
def post_to_slack(channel: str, text: str, config: RunnableConfig) -> str:
    """Post a message in a Slack channel, as the person who asks."""
    exchanged = httpx.post(
        os.environ["VAULT_URL"] + "/token",
        auth=(os.environ["CLIENT_ID"], os.environ["CLIENT_SECRET"]),
        data={
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": config["configurable"]["access_token"],
            "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "audience": "slack",
            "scope": "chat:write",
        },
    ).json()
    if "error" in exchanged:  # not connected yet, or not allowed: the link is for the person
        return f"{exchanged['error_description']} {exchanged.get('connect_uri', '')}"
    slack = WebClient(token=exchanged["access_token"], base_url=exchanged["api_base_url"] + "/")
    return str(slack.chat_postMessage(channel=channel, text=text)["ts"])


graph = StateGraph(MessagesState).add_node("tools", ToolNode([post_to_slack])).set_entry_point("tools").compile()

tool_call = {"name": "post_to_slack", "args": {"channel": "C0SBGENERAL", "text": "Hello from a graph"}, "id": "1"}
answer = graph.invoke(
    {"messages": [AIMessage("", tool_calls=[tool_call])]},  # what a model says
    {"configurable": {"access_token": os.environ["ACCESS_TOKEN"]}},
)
print(answer["messages"][-1].content)
