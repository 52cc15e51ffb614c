"""The ports of `core.ports` for one process: a store in memory, connections to it, and a clock that can be virtual."""
