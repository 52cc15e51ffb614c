"""Recorded lives of agents: written while an agent works, and replayed later on the code of that day."""
