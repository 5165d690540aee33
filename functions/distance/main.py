"""The stage `distance`: how far a submitted place is from the office.

It consumes `raw_input` (email, lat, long) and emits `calculated_distance` (email, distance_from_velocity).
"""

from geopy.distance import geodesic
from geopy.units import miles

from functions.payloads import OFFICE, CalculatedDistance, Submission
from milepost import stage

WGS84 = geodesic()
"""Keeps the constants of the ellipsoid for every place; `geodesic(place, OFFICE)` would compute them each time."""


def distance(submission: Submission) -> CalculatedDistance:
    """Measure the miles from the submitted place to the office, along the WGS-84 ellipsoid (Karney 2013)."""
    kilometers = WGS84.measure((submission.lat, submission.long), OFFICE)
    return CalculatedDistance(email=submission.email, distance_from_velocity=miles(kilometers=kilometers))


main = stage(distance, inline=True)  # inline: quick enough (0.1 ms) to run on the event loop
