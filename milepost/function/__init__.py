"""A stage: a plain function, served as an HTTP handler of CloudEvents.

stage.py reads the request and calls the function, which description.py has described. responses.py writes the answer.
outage_log.py logs why a stage answers 503.
"""
