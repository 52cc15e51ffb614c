"""Pictures and live views for reports and for chaos."""
