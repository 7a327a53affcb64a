"""Short programs that use BEAN, to be copied.

Each is run by `python -m examples.NAME`. Lines that BEAN added to a program, or
changed, end in `# BEAN`.
"""
