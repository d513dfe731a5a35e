"""Machines: how they come to life, are prepared, and end."""
