"""Test a provider's file through the whole life of a connection, with the simulator or live."""
