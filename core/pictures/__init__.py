"""Drawings and live views, for reports, for chaos and for whoever draws next."""
