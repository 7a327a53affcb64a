"""Files: records of cells, checkpoints of networks."""
