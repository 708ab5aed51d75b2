"""Everything at rest, and the exchange: records, sealing, storage, delegations, refresh, activity."""
