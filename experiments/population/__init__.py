"""A population: whole trainings of many members at once, and their files.

What stands in the way is raised for `command.scripts`, which prints it in a
line: `datasets.DatasetError`, `results.ResultError`, `interruption.Stopped`.
"""
