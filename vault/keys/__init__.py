"""Keys: the ring, signing keys, passwords, and the sources of the key-encryption key."""
