"""What the administrator sees of the machinery."""
