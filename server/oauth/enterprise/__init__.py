"""Identity assertions at the token endpoint: a company's identity provider gives agents access for its people.

ID-JAG: draft-ietf-oauth-identity-assertion-authz-grant-03; MCP Enterprise-Managed Authorization (stable, 2026-06-18).
"""
