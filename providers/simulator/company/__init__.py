"""A company's identity provider: people sign in there once, and it vouches for them at services that it knows.

OpenID Connect with rotating refresh tokens, and Identity Assertion JWT Authorization Grants (ID-JAG) by
draft-ietf-oauth-identity-assertion-authz-grant-03. Written from the specifications, never from the project's own code.
Its addresses are `/company/...`; the families' server redeems what it issues.
"""
