"""Stands for a warehouse and a supplier, receivers that are not ours: prints each event that is POSTed to it.

python receiver.py [PORT]
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take a CloudEvent in structured mode. The path is the name of the receiver."""
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        data = event["data"]
        count = data.get("quantity") or data["missing"]
        print(f"{self.path[1:]}: {count} {data['name']} for {data['customer']} ({event['id']})", flush=True)
        self.send_response(202)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing but the events."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 9000), Receiver)
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
