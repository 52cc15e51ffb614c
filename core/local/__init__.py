"""A whole hierarchy in one process: for programs of one machine, and for the tests of users."""
