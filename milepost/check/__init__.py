"""Check, before its rollout, whether a checkout would take the events that wait in a running pipeline.

waiting.py reads the events, in pages. schemas.py compares payload classes with the running pipeline's. findings.py
checks both. `milepost check` shows the result, and so does `python -m milepost.check`, which needs no command line: the
chart's pre-upgrade hook runs it in the gateway's image.
"""
