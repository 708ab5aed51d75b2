"""The exchange: code decides who may have which upstream token before a tool runs."""
