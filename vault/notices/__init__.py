"""Notices: what a person is told outside the pages, about which events, by which channels."""
