"""The coordinator: rules and graph decide, agent and __main__ act."""
