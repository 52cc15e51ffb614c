"""Chaos testing: a hierarchy under random faults, a ledger of everything that happened, and a judge."""
