"""Client-initiated backchannel authentication (OpenID CIBA Core 1.0): a client asks its person, who answers on a page.

To the person, it is an approval like that of a tool call (`vault.approvals.requests`). Modes: poll, ping, and push.
"""
