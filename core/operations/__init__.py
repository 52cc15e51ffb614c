"""What operators read and do without being an agent: views of the stored state, checks, erasing, access rules."""
