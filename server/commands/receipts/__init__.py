"""`receipts ...`: signed receipts of what became of ended grants at their providers."""
