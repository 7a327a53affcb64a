"""Tests of experiments.compaction."""
