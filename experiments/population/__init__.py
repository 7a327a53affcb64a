"""A population: whole trainings of many members at once, and their files."""
