"""How the classes of the records are made."""
