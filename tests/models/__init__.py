"""Tests of everloop/models."""
