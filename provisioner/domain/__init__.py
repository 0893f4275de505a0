"""Decisions in plain values: no I/O, no clock, no environment, no subprocess."""
