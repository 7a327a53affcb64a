"""Experiments that show what BEAN does, each runnable as a module."""
