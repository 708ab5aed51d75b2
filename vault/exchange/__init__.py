"""The exchange: who may have which upstream token, decided by code before a tool runs."""
