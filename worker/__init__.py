"""The worker: rules and graph think, agent and __main__ act."""
