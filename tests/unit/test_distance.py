import pytest
from geographiclib.geodesic import Geodesic
from geopy.distance import geodesic
from hypothesis import given
from hypothesis import strategies as st

from functions.distance.main import WGS84, distance, main
from functions.payloads import OFFICE, CalculatedDistance, Submission
from milepost.testing import described

METRES_PER_MILE = 1609.344

latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 180)


def miles(lat: float, long: float) -> float:
    return distance(Submission(email="ada@example.org", lat=lat, long=long)).distance_from_velocity


def test_london_to_the_last_digit() -> None:
    assert miles(51.5074, -0.1278) == 2216.0742916592476


def test_the_office_itself() -> None:
    assert miles(*OFFICE) == 0.0


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        pytest.param((40.7128, -74.0060), 5679.936314, id="New York"),
        pytest.param((90, 0), 4008.612119, id="North Pole"),
        pytest.param((-90, 0), 8421.254620, id="South Pole"),
        pytest.param((0, 180), 9268.916038, id="antimeridian"),
    ],
)
def test_places_around_the_world(place: tuple[float, float], expected: float) -> None:
    assert miles(*place) == pytest.approx(expected, abs=1e-6)


def test_at_a_pole_every_longitude_is_the_same_place() -> None:
    for lat in (90, -90):
        assert len({round(miles(lat, long), 9) for long in (-180, -90, 0, 34.864535, 180)}) == 1


def test_the_poles_are_half_a_meridian_apart() -> None:
    # WGS 84: a meridian quadrant is 10 001 965.729 m (Karney, "Algorithms for geodesics", J. Geod. 87, 2013, eq. 7).
    assert (miles(90, 0) + miles(-90, 0)) * METRES_PER_MILE == pytest.approx(2 * 10_001_965.729, abs=0.01)


def test_the_antimeridian_is_one_line() -> None:
    for lat in (-66.5, 0, 51.5):
        assert miles(lat, 180) == miles(lat, -180)
        assert miles(lat, 179.9999999) == pytest.approx(miles(lat, -179.9999999), abs=1e-4)


@pytest.mark.parametrize(
    ("one", "other", "metres"),
    [
        # Karney's test set GeodTest (WGS 84), as in geodtest.c of PROJ and GeographicLib: lat1 lon1 lat2 lon2 s12.
        ((35.60777, -139.44815), (-11.17491, -69.95921), 8_935_244.560_481_830_5),
        ((55.52454, 106.05087), (77.03196, 197.18234), 4_105_086.171_392_440_6),
        ((-21.97856, 142.59065), (41.84138, 98.56635), 8_394_328.894_657_671),
        ((-66.99028, 112.2363), (-12.70631, 285.90344), 11_150_344.231_208_024_1),
        ((-17.42761, 173.34268), (-15.84784, 5.93557), 16_076_603.163_118_067_3),
        # Karney, "Algorithms for geodesics", J. Geod. 87 (2013), the nearly antipodal example (WGS 84).
        ((-30, 0), (29.9, 179.8), 19_989_832.827_61),
        # geographiclib's Python documentation, "Examples": Wellington to Salamanca.
        ((-41.32, 174.81), (40.96, -5.50), 19_959_679.267_353_82),
    ],
)
def test_published_geodesics(one: tuple[float, float], other: tuple[float, float], metres: float) -> None:
    assert geodesic(one, other).meters == pytest.approx(metres, abs=1e-5)


@given(latitudes, longitudes)
def test_any_place_is_within_half_the_earth(lat: float, long: float) -> None:
    # No two points are farther apart on the ellipsoid than its poles: 2 x 10 001 965.729 m.
    assert 0 <= miles(lat, long) <= 2 * 10_001_965.730 / METRES_PER_MILE


@given(latitudes, longitudes)
def test_it_is_the_geodesic_of_wgs84(lat: float, long: float) -> None:
    assert miles(lat, long) == geodesic((lat, long), OFFICE).miles
    inverse = Geodesic.WGS84.Inverse(lat, long, *OFFICE)
    assert miles(lat, long) == pytest.approx(inverse["s12"] / METRES_PER_MILE, rel=1e-12, abs=1e-9)


def test_constants_of_the_ellipsoid_are_computed_once() -> None:
    miles(0, 0)
    computed = WGS84.geod
    miles(1, 1)
    assert WGS84.geod is computed


def test_description_of_the_stage() -> None:
    description = described(main)
    assert (description.name, description.consumes.channel) == ("distance", "raw_input")
    assert description.emits == (CalculatedDistance,)
