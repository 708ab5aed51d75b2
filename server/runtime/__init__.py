"""The process: logs, draining, rate limits, the data directory, the browser."""
