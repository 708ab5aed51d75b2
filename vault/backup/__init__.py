"""Backup and restore, and the quarantine of what an older database may have lost."""
