"""The checks of `token-vault doctor`: problems with this installation, and a fix for each.

`files` checks the disk before anything is opened; `database` checks the database's history and the connection to it;
`refreshes`, providers that don't answer; `activity`, the verifiable record; `address`, the public URL as a client sees
it; and `providers`, our registrations. The command opens the vault and prints.
"""
