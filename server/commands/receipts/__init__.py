"""`receipts ...`: signed receipts for ended grants at their providers."""
