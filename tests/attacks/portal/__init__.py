"""Attacks on people's pages and on what reaches them: forms, passkeys, approvals, downloads, notices, and webhooks."""
