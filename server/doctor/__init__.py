"""What is wrong with this installation, and the mend of each thing: the checks behind `token-vault doctor`.

`files` looks at what lies on the disk, before anything is opened; `database` at its history and the way to it;
`refreshes` at providers that keep silent; `activity` at what can be proved; `serving` at the address, as a client sees
it; `providers` at our registrations. Opening the vault and printing is the command's part.
"""
