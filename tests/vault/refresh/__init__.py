"""Tests of refreshing and its crashes."""
