"""The checks behind `token-vault doctor`: what is wrong with this installation, and the fix for each.

`files` checks the disk before anything is opened; `database` the database's history and the path to it; `refreshes`
providers that do not answer; `activity` what can be proved; `address` the public URL, as a client sees it; `providers`
our registrations. The command opens the vault and prints.
"""
