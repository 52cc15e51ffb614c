"""What operators read and do, without being an agent: looks at the stored state, checks, erasing, access rules."""
