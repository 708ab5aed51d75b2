"""The HTTP edge: guards, addresses of clients, cross-origin rules, limits of connections, pages."""
