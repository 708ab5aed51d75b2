"""Tests of the commands about what happened."""
