"""Notices: which events a person hears about outside the pages, and by which channels."""
