"""Tests of the entries in the configuration files of programs that use the vault."""
