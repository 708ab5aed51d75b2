"""The bridge: speaks MCP on standard input and output, and forwards every message to a remote token vault.

For clients that know stdio only. The person signs in once (`browser`, `device`), what that gives lies in the keyring of
the operating system (`credentials`); `access` renews it, one process at a time; `relay` forwards both ways.
"""
