"""Tests of the library and of the experiments."""
