"""Logs and traces of every component."""
