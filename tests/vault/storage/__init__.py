"""Tests of databases, backup and fail-over."""
