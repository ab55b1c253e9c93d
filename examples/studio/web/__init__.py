"""What every answer has: headers, an id, a theme and an error page."""
