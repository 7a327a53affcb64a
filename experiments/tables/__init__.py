"""What records show: statistics, tables, figures, the paper's numbers."""
