"""Outbound HTTP: checked addresses, limits, deadlines, pools."""
