"""Accounts that people connect by entering a credential."""
