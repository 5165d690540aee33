"""The map of the page: azimuthal equidistant, centred on the office, true in distance and bearing from there.

The land is Natural Earth's, 1:110 million, simplified: public domain, no permission needed. land.json has one ring a
line, longitude and latitude in turn, in tenths of a degree.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from functions.payloads import OFFICE

RADIUS = 200
"""Radius of the map, in its own units."""

FARTHEST = 12_450
"""Miles from the office to the rim: half of the circumference."""

RINGS = (2500, 5000, 7500, 10_000)
"""Miles."""

_FINE = 2
"""Outlines have whole coordinates, in units this many times smaller."""

_EQUATOR = 3963.190592
_FLATTENING = 1 / 298.257223563
"""WGS-84: the radius in miles, and the flattening."""

_WINDS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")


@dataclass(frozen=True, slots=True)
class Point:
    """A place seen from the office: miles along the ellipsoid, degrees clockwise from north, x and y on the map."""

    miles: float
    bearing: float
    x: float
    y: float

    @property
    def wind(self) -> str:
        return _WINDS[round(self.bearing / 45) % 8]


def locate(lat: float, long: float) -> Point:
    """Locate a place. Exact to a hundredth of a mile nearly everywhere, to half a mile near the antipode.

    Lambert's formula for long lines, on reduced latitudes. The e-mail has the exact figure of the function.
    """
    here, there = (math.atan((1 - _FLATTENING) * math.tan(math.radians(north))) for north in (OFFICE[0], lat))
    turn = math.radians(long - OFFICE[1])
    half = math.hypot(math.sin((there - here) / 2), math.sqrt(math.cos(here) * math.cos(there)) * math.sin(turn / 2))
    angle = 2 * math.asin(min(1.0, half))
    if angle == 0:
        return Point(0, 0, 0, 0)
    middle, apart = (here + there) / 2, (there - here) / 2
    far = (angle - math.sin(angle)) * (math.sin(middle) * math.cos(apart) / max(math.cos(angle / 2), 1e-6)) ** 2
    near = (angle + math.sin(angle)) * (math.cos(middle) * math.sin(apart) / math.sin(angle / 2)) ** 2
    miles = min(_EQUATOR * (angle - _FLATTENING / 2 * (far + near)), FARTHEST)
    bearing = math.atan2(
        math.sin(turn) * math.cos(there),
        math.cos(here) * math.sin(there) - math.sin(here) * math.cos(there) * math.cos(turn),
    )
    out = RADIUS * miles / FARTHEST
    return Point(miles, math.degrees(bearing) % 360, out * math.sin(bearing), -out * math.cos(bearing))


def radius(miles: float) -> float:
    """The radius of the ring at so many miles."""
    return round(RADIUS * miles / FARTHEST, 1)


def land() -> str:
    """The coasts as an SVG path, in fine units."""
    rings = json.loads(Path(__file__).with_name("land.json").read_text())
    return "".join(
        _path((lat / 10, long / 10) for long, lat in zip(ring[::2], ring[1::2], strict=True)) + "z" for ring in rings
    )


def graticule() -> str:
    """Meridians and parallels 30 degrees apart, as an SVG path in fine units."""
    meridians = "".join(_path((lat, long) for lat in _steps(-90, 90)) for long in range(-180, 180, 30))
    parallels = "".join(_path((lat, long) for long in _steps(-180, 180)) for lat in range(-60, 90, 30))
    return meridians + parallels


def _steps(first: int, last: int) -> Iterator[float]:
    return (first + step * 2.5 for step in range(round((last - first) / 2.5) + 1))


def _path(places: Iterable[Sequence[float]]) -> str:
    """A line through these places, cut where it would cross the map from rim to rim."""
    points = [(round(point.x * _FINE), round(point.y * _FINE)) for point in (locate(*place) for place in places)]
    pieces = [f"M{points[0][0]} {points[0][1]}l"]
    for (x, y), (next_x, next_y) in pairwise(points):
        if math.hypot(next_x - x, next_y - y) > RADIUS * _FINE / 2:
            pieces.append(f"M{next_x} {next_y}l")
        elif (next_x, next_y) != (x, y):
            pieces.append(f"{next_x - x} {next_y - y} ")
    return "".join(pieces).replace(" -", "-").replace(" M", "M").replace("lM", "M").rstrip(" l")
