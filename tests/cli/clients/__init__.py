"""Tests of the entries in the files of programs that use the vault."""
