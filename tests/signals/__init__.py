"""Tests of signals: what others tell this vault, and what it tells others."""
