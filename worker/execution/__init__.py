"""A worker's attempts, from the queue to their outcomes."""
