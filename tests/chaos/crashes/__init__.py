"""Processes that are killed or stopped, and commands that are interrupted."""
