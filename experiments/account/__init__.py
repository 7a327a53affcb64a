"""What the paper claims, and what the records show of it."""
