"""Accounts that are connected by a credential which a person enters."""
