"""`helm test`: submit a form as a browser does, and wait until the submission has reached a channel."""

import json
import os
import sys
import time
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

GATEWAY = os.environ["GATEWAY"]
PLACE = GATEWAY + os.environ["FORM_PATH"]
FORM = urlencode(json.loads(os.environ["FORM"])).encode()
LAST = os.environ["REACHES"]
KEY = f"helm-test-{time.time_ns()}"  # the same for each try, so that they are one submission

end = time.monotonic() + float(os.environ["WITHIN"])
submitted = ""
reached: list[str] = []

while time.monotonic() < end:
    try:
        if not submitted:
            form = Request(PLACE, FORM, {"accept": "application/json", "idempotency-key": KEY})
            with urlopen(form, timeout=10) as response:
                submitted = json.load(response)["status"]
        with urlopen(GATEWAY + submitted, timeout=10) as response:
            channels = json.load(response)["channels"]
    except OSError as fault:
        if isinstance(fault, HTTPError) and 400 <= fault.code < 500 and fault.code not in {404, 408, 429}:
            sys.exit(f"the gateway refuses the form: {fault.read().decode(errors='replace')}")
        print(f"not yet: {fault}", flush=True)
        time.sleep(1)
        continue
    for note in channels[len(reached) :]:
        print(f"{note['time']} {note['channel']} {json.dumps(note['data'])}", flush=True)
    reached = [note["channel"] for note in channels]
    if LAST in reached:
        sys.exit(0)
    if any(channel.startswith("dead:") for channel in reached):
        break
    time.sleep(0.2)

sys.exit(f"{submitted or 'nothing accepted'}: no {LAST}, only {', '.join(reached) or 'nothing'}")
