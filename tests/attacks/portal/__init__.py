"""Attacks on people's pages and on messages to people: forms, passkeys, approvals, downloads, notices, and webhooks."""
