"""The gateway: the page people see and the API programs call. What they submit becomes events on `raw_input`."""
