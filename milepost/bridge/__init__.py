"""Reads events from the journals, POSTs them to the stages, and journals the replies."""
