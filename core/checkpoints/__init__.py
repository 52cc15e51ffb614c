"""Checkpoints of LangGraph, kept in Redis."""
