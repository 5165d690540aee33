"""`python -m milepost.bridge`: one bridge, until SIGTERM."""

import signal
import sys
from typing import NoReturn

import uvicorn

from milepost.bridge.app import create_app
from milepost.bridge.bridge import Bridge
from milepost.bridge.settings import BridgeSettings
from milepost.errors import ConfigurationError
from milepost.observe import logs, traces
from milepost.server.protocol import Protocol


def main() -> int:
    """Exit status: 0 after a clean stop, 1 when serving ended by a fault, 2 for a setting that is wrong."""
    try:
        logs.configure()
        settings = BridgeSettings.read()
        traces.tracer("bridge")  # raises for a wrong setting of traces
    except ConfigurationError as fault:
        print(f"milepost.bridge: {fault}", file=sys.stderr)
        return 2
    return _serve(settings)


def _serve(settings: BridgeSettings) -> int:
    def failed() -> None:
        server.should_exit = True

    config = uvicorn.Config(
        create_app(Bridge(settings), failed=failed),
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        http=Protocol,
        ws="none",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stopped)
    server.run()
    return 1  # a signal would have ended the process in `_stopped`


def _stopped(*_: object) -> NoReturn:
    """Uvicorn stops in good order at a signal, then raises it again for the handler that was there before."""
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
