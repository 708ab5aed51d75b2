"""What one agent may do with one account: its rows in forms, storing them, and the tools that it is offered."""
