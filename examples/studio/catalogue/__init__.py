"""The catalogue: what the studio has, read and changed."""
