"""The servers that the measurements compare, and the upstream behind them. Each is a process of its own."""
