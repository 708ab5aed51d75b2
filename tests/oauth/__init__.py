"""Tests of the authorization server, one file per RFC."""
