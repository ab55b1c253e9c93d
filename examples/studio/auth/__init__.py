"""Who may do what: users, sessions and roles."""
