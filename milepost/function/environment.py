"""Read settings of a function from the environment."""

from collections.abc import Mapping

from milepost.errors import ConfigurationError


def seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    """Read a duration. Raises ConfigurationError naming the variable."""
    try:
        value = float(environ.get(name, default))
    except ValueError:
        value = -1.0
    if not 0 < value <= 3600:
        raise ConfigurationError(f"{name}: must be a number of seconds, above 0 and at most 3600")
    return value
