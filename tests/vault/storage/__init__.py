"""Tests of databases, backup and failover."""
