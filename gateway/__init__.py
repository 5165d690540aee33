"""The gateway: the page people see and the API programs call. Their submissions become events on `raw_input`."""
