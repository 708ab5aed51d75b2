"""Tests of `token-vault run`."""
