"""Notifications: their time and text, and sending them by mail, ntfy, Slack, webhook, web push, or Apprise."""
