"""The stage `distance`: how far a submitted place is from the office.

It consumes `raw_input` (email, lat, long) and emits `calculated_distance` (email, distance_from_velocity).
"""

from geopy.distance import geodesic

from functions.payloads import CalculatedDistance, Submission
from milepost import stage

OFFICE = (32.080058, 34.864535)
"""Velocity: degrees north, degrees east."""


def distance(submission: Submission) -> CalculatedDistance:
    """Measure the miles from the submitted place to the office, along the WGS-84 ellipsoid (Karney 2013)."""
    miles = geodesic((submission.lat, submission.long), OFFICE).miles
    return CalculatedDistance(email=submission.email, distance_from_velocity=miles)


main = stage(distance, inline=True)  # inline: quick enough (0.1 ms) to run on the event loop
