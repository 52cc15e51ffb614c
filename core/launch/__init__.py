"""A hierarchy as processes of this machine: started, watched, started again, ended."""
