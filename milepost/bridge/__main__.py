"""`python -m milepost.bridge`: one bridge, until SIGTERM."""

import sys

import uvicorn

from milepost import log
from milepost.bridge.app import create_app
from milepost.bridge.bridge import Bridge
from milepost.bridge.settings import BridgeSettings
from milepost.errors import ConfigurationError


def main() -> int:
    """Exit status: 0 after a clean stop, 1 when serving ended by a fault, 2 for a setting that is wrong."""
    log.configure()
    try:
        settings = BridgeSettings.read()
    except ConfigurationError as fault:
        print(f"milepost.bridge: {fault}", file=sys.stderr)  # noqa: T201
        return 2
    return _serve(settings)


def _serve(settings: BridgeSettings) -> int:
    faults: list[bool] = []

    def failed() -> None:
        faults.append(True)
        server.should_exit = True

    config = uvicorn.Config(
        create_app(Bridge(settings), failed=failed),
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    server.run()
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
