"""Tests: unit (tables, no I/O), contract, integration (a real server), acceptance (real processes), architecture."""
