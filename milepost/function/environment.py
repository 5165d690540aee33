"""Read settings of a function from the environment."""

from collections.abc import Mapping

from milepost.errors import ConfigurationError


def request_timeout(environ: Mapping[str, str]) -> float:
    """Read REQUEST_TIMEOUT: the seconds that the caller waits for an answer, before it counts a timeout against the
    event. Chart and `milepost up` tell each function the bridge's `timeout`. Raises ConfigurationError.
    """
    return seconds(environ, "REQUEST_TIMEOUT", 60.0)


def seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    """Read a duration. Raises ConfigurationError naming the variable."""
    try:
        value = float(environ.get(name, default))
    except ValueError:
        value = -1.0
    if not 0 < value <= 3600:
        raise ConfigurationError(f"{name}: must be a number of seconds, above 0 and at most 3600")
    return value
