"""Which agents there are, what they can do, and how they are: the registry, kept in Redis, and how it is searched."""
