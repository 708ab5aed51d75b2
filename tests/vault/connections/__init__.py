"""Tests of connections: opened, expiring, disconnected, and what proves that they ended."""
