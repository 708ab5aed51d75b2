"""Tests of the `activity` commands."""
