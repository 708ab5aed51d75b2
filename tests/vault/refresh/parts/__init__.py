"""Tests of refreshing, and of crashes during it."""
