"""Telling people outside the pages: when, in which words, and by mail, ntfy, Slack or a webhook."""
