"""Files and processes of this machine. Knows nothing of agents."""
