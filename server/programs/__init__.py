"""Programs that run behind the vault: `token-vault run` starts one and routes its HTTPS calls through its own proxy.

The proxy (`front`) terminates the program's TLS for the hosts of connected accounts (`server.proxy.program_hosts`),
with certificates from an authority that exists as long as the program (`certificates`). It passes each call to
`server.proxy` with a handle (`server.proxy.program_access`), or to a remote vault (`remote_calls`). The program gets
addresses and placeholders in its environment (`environment`), never a credential.
"""
