"""Tests of connecting an account: the page, the way back from the provider, and key files."""
