"""Events and their payloads: the codec, batches, plain messages, payload classes, and their description.

Nothing here knows Redis, HTTP servers or functions.
"""
