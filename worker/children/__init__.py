"""User code in processes that can be killed."""
