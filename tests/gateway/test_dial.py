import re

import pytest
from geographiclib.geodesic import Geodesic

from functions.distance.main import OFFICE
from gateway import dial

METRES = 1609.344
PLACES = [(lat, long) for lat in range(-85, 90, 17) for long in range(-175, 180, 23)] + [(90, 0), (-90, 0), OFFICE]


def test_its_centre_is_the_office_that_the_function_measures_to() -> None:
    assert dial.OFFICE == OFFICE
    assert dial.locate(*OFFICE) == dial.Fix(0, 0, 0, 0)


@pytest.mark.parametrize("place", PLACES)
def test_distance_and_bearing_are_true(place: tuple[float, float]) -> None:
    true = Geodesic.WGS84.Inverse(*OFFICE, *place)
    fix = dial.locate(*place)
    assert fix.miles == pytest.approx(true["s12"] / METRES, abs=0.5)
    if 1 < fix.miles < 12_000:
        assert abs((fix.bearing - true["azi1"] + 180) % 360 - 180) < 1
    assert (fix.x**2 + fix.y**2) ** 0.5 == pytest.approx(dial.RADIUS * fix.miles / dial.FARTHEST)


def test_the_antipode_is_at_the_rim() -> None:
    assert dial.locate(-OFFICE[0], OFFICE[1] - 180).miles == pytest.approx(dial.FARTHEST, abs=20)


def test_land_and_graticule_are_paths_within_the_rim() -> None:
    for path in (dial.land(), dial.graticule()):
        assert re.fullmatch(r"[Mlz0-9 -]+", path)
        for line in path.split("M")[1:]:
            x = y = 0
            numbers = [int(number) for number in re.findall(r"-?\d+", line)]
            for right, down in zip(numbers[::2], numbers[1::2], strict=True):
                x, y = x + right, y + down
                assert (x * x + y * y) ** 0.5 <= 2 * dial.RADIUS + 1
