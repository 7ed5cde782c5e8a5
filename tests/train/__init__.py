"""Tests of everloop/train."""
