"""Tests of everloop/draw."""
