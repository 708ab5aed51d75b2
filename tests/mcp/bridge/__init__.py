"""`stdio --url`: a client on this machine uses a remote vault."""
