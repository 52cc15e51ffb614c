"""The benchmark: `make bench`. It measures and judges nothing, so it is no test, and pytest collects none of it."""
