"""Adversarial attacks on trained networks, and what they do to accuracy."""
