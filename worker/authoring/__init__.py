"""What authors of tasks use: decorators, context, registry."""
