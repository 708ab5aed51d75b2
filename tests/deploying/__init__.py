"""What `deploy/` ships: container, units, proxies, and charts, run where this machine can."""
