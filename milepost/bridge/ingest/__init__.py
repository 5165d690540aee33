"""The way of messages that other programs PUBLISH into the journal."""
