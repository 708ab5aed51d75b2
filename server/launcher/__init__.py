"""Holds the package `token_vault`, the one name under which the program is installed."""
