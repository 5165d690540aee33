"""How far a submitted place is from the office."""

from geopy.distance import geodesic

from functions.payloads import CalculatedDistance, Submission
from milepost import stage

OFFICE = (32.080058, 34.864535)
"""Velocity: degrees north, degrees east."""


def distance(submission: Submission) -> CalculatedDistance:
    """Miles along the WGS-84 ellipsoid from the submitted place to the office (Karney 2013, by geographiclib)."""
    miles = geodesic((submission.lat, submission.long), OFFICE).miles
    return CalculatedDistance(email=submission.email, distance_from_velocity=miles)


main = stage(distance, inline=True)
