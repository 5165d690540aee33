"""`python -m gateway`: serve until SIGTERM or SIGINT, then finish the requests under way and end."""

import contextlib
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI

from gateway.app import create_app
from gateway.settings import GatewaySettings
from milepost.errors import ConfigurationError
from milepost.observe import logs, traces
from milepost.server.protocol import Protocol

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "permissions-policy": "geolocation=(self), camera=(), microphone=()",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Headers of every response: a browser does no more with it than the pages need."""

STOP_WITHIN = 7
"""Seconds for requests under way to finish; with the closing of the journal, a stop takes less than ten."""


class GatewayServer(uvicorn.Server):
    """A server that ends the event streams when it stops: uvicorn waits for open responses before it tells the app."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.notifier.close()
        await super().shutdown(sockets)


def main() -> int:
    """Exit status: 0 after a clean stop, 2 for a setting that is wrong, 3 when the port cannot be had."""
    try:
        logs.configure()
        settings = GatewaySettings.read()
        traces.tracer("gateway")  # a wrong setting of it is told here too
    except ConfigurationError as fault:
        print(f"gateway: {fault}", file=sys.stderr)
        return 2
    # Once stopped, uvicorn raises the signal again for the handler before its own: a clean stop is status 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        http=Protocol,
        ws="none",
        lifespan="on",
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=settings.forwarded_allow_ips,
        server_header=False,
        headers=list(SECURITY_HEADERS.items()),
        timeout_graceful_shutdown=STOP_WITHIN,
    )
    serving = GatewayServer(config, app)
    # As uvicorn.run does: Ctrl-C is raised again once all is closed.
    with contextlib.suppress(KeyboardInterrupt):
        serving.run()
    return 0 if serving.started else 3


if __name__ == "__main__":
    sys.exit(main())
