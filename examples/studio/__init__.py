"""The Paint and Print Studio: a self-hosted paint inventory, and paintkit's reference application."""
