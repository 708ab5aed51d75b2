"""What upkeep tells, ends and deletes: coming ends, grants of disconnected accounts, records that ended long ago."""
