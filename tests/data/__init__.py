"""Tests of everloop/data."""
