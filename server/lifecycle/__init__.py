"""What runs beside requests: upkeep, readiness, the sandbox, the loopback companion of stdio."""
