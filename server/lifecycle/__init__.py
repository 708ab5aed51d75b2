"""What runs in the background: upkeep, readiness, the sandbox, the loopback companion of stdio."""
