"""Stands for a receiver that is not ours: prints each digest that is POSTed to it.

python receiver.py [PORT]
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take a CloudEvent in structured mode from a sender with the right token."""
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        scheme = self.headers.get("authorization", "").partition(" ")[0]
        if scheme == "Bearer":
            print(f"{event['type']} {event['id']}\n\n{event['data']['markdown']}", flush=True)
        self.send_response(202 if scheme == "Bearer" else 401)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing but the digests."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 9000), Receiver)
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
