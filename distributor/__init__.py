"""The distributor: rules and graph think, agent and __main__ act."""
