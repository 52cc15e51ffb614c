"""What programs hold: AgentClient, and what it stands on."""
