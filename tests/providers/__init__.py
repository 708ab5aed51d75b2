"""Tests of provider files, OAuth to providers, API calls and tools."""
