"""What makes an agent run: its loop, its mail, its heartbeat, its start and its end."""
