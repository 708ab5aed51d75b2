"""Upkeep: report upcoming ends, end grants of disconnected accounts, and delete records that ended long ago."""
