"""`stdio --url`: a client on this machine at a vault elsewhere."""
