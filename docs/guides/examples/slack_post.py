"""Slack with slack_sdk: list channels and post a message, with a handle."""

import os

from slack_sdk import WebClient

slack = WebClient(token=os.environ["HANDLE"], base_url=os.environ["API_BASE_URL"] + "/")

channels = slack.conversations_list(types="public_channel")["channels"]
general = next(channel for channel in channels if channel["name"] == "general")
posted = slack.chat_postMessage(channel=general["id"], text="Hello from my own program")
print(posted["ts"])
