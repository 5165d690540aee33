"""A stage: a plain function, served as an HTTP handler of CloudEvents.

app.py is the process's application, which framework.py loads. stage.py reads a request and calls the function, which
description.py has described; threads.py runs a sync one. responses.py writes the answer. lifespan.py has the stage's
start and stop, environment.py reads a setting, outage_log.py logs why it answers 503, logs.py sets logging up.
calling.py calls a stage without a server.
"""
