"""The bridge: speaks MCP on standard input and output and forwards every message to a remote token vault.

For clients that only support stdio. The person signs in once (`sign_in`, `browser`); the credentials are stored in the
operating system's keyring (`credentials`); `access` renews them, one process at a time; `relay` forwards messages in
both directions.
"""
