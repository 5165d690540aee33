"""How far a submitted place is from the office."""

from geographiclib.geodesic import Geodesic

from functions.payloads import CalculatedDistance, Submission
from milepost import stage

OFFICE = (32.080058, 34.864535)
"""Velocity: degrees north, degrees east."""

WGS84 = Geodesic(6378.137, 1 / 298.257223563)
"""The ellipsoid, in kilometres. It is what `geopy.distance.geodesic` makes anew for each distance; to import that is to
import every geocoder of geopy. The digits are the same.
"""

KILOMETRES_PER_MILE = 1.609344


def distance(submission: Submission) -> CalculatedDistance:
    """Miles along the WGS-84 ellipsoid from the submitted place to the office (Karney 2013, by geographiclib)."""
    kilometres = WGS84.Inverse(submission.lat, submission.long, *OFFICE, Geodesic.DISTANCE)["s12"]
    return CalculatedDistance(email=submission.email, distance_from_velocity=kilometres / KILOMETRES_PER_MILE)


main = stage(distance, inline=True)
