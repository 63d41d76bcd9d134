"""What one sees: the dashboard, a client of the API like any other."""
