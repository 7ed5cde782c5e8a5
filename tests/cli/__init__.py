"""Tests of everloop/cli."""
