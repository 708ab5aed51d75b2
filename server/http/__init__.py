"""The HTTP edge: guards, client addresses, cross-origin rules, connection limits, pages."""
