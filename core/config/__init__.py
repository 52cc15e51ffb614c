"""What is configured, and where it comes from. `settings` has the values, `sources` reads them."""
