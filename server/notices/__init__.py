"""Notifications: when and with which text, by mail, ntfy, Slack, or a webhook."""
