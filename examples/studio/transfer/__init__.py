"""The catalogue in and out as CSV."""
