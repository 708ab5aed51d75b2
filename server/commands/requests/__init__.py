"""`requests ...`: what people asked others for, and the answers."""
