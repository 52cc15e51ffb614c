"""Jobs that show the system at work. None of them is installed with it."""
