"""Notices: which events a person is notified of outside the pages, and by which channels."""
