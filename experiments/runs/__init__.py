"""Which cells are trained, and what of them is there already."""
