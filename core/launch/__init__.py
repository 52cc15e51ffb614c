"""Runs a hierarchy as processes of this machine: it starts, watches, restarts and ends them."""
