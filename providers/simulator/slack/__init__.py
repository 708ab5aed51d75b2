"""The simulator's Slack."""
