"""What `deploy/` ships: container, units, proxies, and charts, run if this machine can."""
