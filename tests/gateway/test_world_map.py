import re

import pytest
from geographiclib.geodesic import Geodesic

from functions.payloads import OFFICE
from gateway import world_map

METRES = 1609.344
PLACES = [(lat, long) for lat in range(-85, 90, 17) for long in range(-175, 180, 23)] + [(90, 0), (-90, 0), OFFICE]


def test_its_centre_is_the_office_that_the_function_measures_to() -> None:
    assert world_map.OFFICE == OFFICE
    assert world_map.locate(*OFFICE) == world_map.Point(0, 0, 0, 0)


@pytest.mark.parametrize("place", PLACES)
def test_distance_and_bearing_are_true(place: tuple[float, float]) -> None:
    true = Geodesic.WGS84.Inverse(*OFFICE, *place)
    point = world_map.locate(*place)
    assert point.miles == pytest.approx(true["s12"] / METRES, abs=0.5)
    if 1 < point.miles < 12_000:
        assert abs((point.bearing - true["azi1"] + 180) % 360 - 180) < 1
    assert (point.x**2 + point.y**2) ** 0.5 == pytest.approx(world_map.RADIUS * point.miles / world_map.FARTHEST)


def test_the_antipode_is_at_the_rim() -> None:
    assert world_map.locate(-OFFICE[0], OFFICE[1] - 180).miles == pytest.approx(world_map.FARTHEST, abs=20)


def test_land_and_graticule_are_paths_within_the_rim() -> None:
    for path in (world_map.land(), world_map.graticule()):
        assert re.fullmatch(r"[Mlz0-9 -]+", path)
        for line in path.split("M")[1:]:
            x = y = 0
            numbers = [int(number) for number in re.findall(r"-?\d+", line)]
            for right, down in zip(numbers[::2], numbers[1::2], strict=True):
                x, y = x + right, y + down
                assert (x * x + y * y) ** 0.5 <= 2 * world_map.RADIUS + 1
