"""Tests of the API proxy."""
