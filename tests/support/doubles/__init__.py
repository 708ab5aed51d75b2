"""Doubles of the outside: providers, mail, keyrings, a device with passkeys. The simulator is the largest of them."""
