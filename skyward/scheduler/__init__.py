"""Tasks x workers -> outcomes: the only dispatch loop."""
