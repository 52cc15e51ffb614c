"""A team of agents that answers a question from the documents of this repository: `make agents`."""
