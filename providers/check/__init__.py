"""Drive a provider's file through the whole life of a connection, at the simulator or live."""
