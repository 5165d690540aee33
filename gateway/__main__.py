"""`python -m gateway`: serve until SIGTERM or SIGINT, then finish what is under way and end."""

import signal
import sys

import uvicorn

from gateway.app import create_app
from gateway.settings import GatewaySettings
from milepost import log
from milepost.errors import ConfigurationError

STOP_WITHIN = 7
"""Seconds that requests under way have to finish; with the journal's closing, the stop stays under ten."""


def main() -> int:
    """Exit status: 0 after a clean stop, 2 for a setting that is wrong, 3 when the port cannot be had."""
    log.configure()
    try:
        settings = GatewaySettings.read()
    except ConfigurationError as fault:
        print(f"gateway: {fault}", file=sys.stderr)  # noqa: T201
        return 2
    # Once stopped, uvicorn raises the signal again for whoever had it before: a clean stop is status 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        http="httptools",
        ws="none",
        lifespan="on",
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=settings.forwarded_allow_ips,
        server_header=False,
        timeout_graceful_shutdown=STOP_WITHIN,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
