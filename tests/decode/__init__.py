"""Tests of everloop/decode."""
