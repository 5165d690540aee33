"""The bridge: takes what is journaled on a channel to each stage that consumes it, and its answer to the next."""
