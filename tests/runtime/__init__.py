"""Tests of whole runs: interrupted, resumed, and by several processes."""
