"""Programs that run behind the vault: `token-vault run` starts one whose HTTPS calls pass a proxy of its own.

The proxy (`front`) ends the program's TLS for the hosts of connected accounts (`server.proxy.program_hosts`), with
certificates of an authority that lives as long as the program (`certificates`). It hands each call to `server.proxy`
with a handle (`server.proxy.program_access`), or to a vault elsewhere (`remote_calls`). The program gets addresses and
placeholders in its environment (`environment`), never a credential.
"""
