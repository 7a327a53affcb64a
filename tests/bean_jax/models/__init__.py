"""Tests of models of every library."""
