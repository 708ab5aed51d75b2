"""What is wrong with this installation, and the mend of each thing: the checks behind `token-vault doctor`.

`files` looks at what lies on the disk, before anything is opened; `activity` at what can be proved; `storage` at the
way to the database; `serving` at the address, as a client sees it; `providers` at our registrations. Opening the vault
and printing is the command's part.
"""
