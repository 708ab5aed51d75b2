"""The servers that the measurements compare, and the upstream behind them. Each is its own process."""
