"""Tests of connections: opened, expiring, disconnected, and what shows that they ended."""
