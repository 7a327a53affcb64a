"""What `learning_rules` measures of trained networks, tabulates and draws."""
