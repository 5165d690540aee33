"""The HTTP client of the bridge."""
