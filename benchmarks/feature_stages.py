"""The stages of the feature rows: as functions they do nothing, so that the row measures the feature alone."""

from milepost import Payload, stage


class Submitted(Payload, channel="submitted"):
    email: str


class Left(Payload, channel="left"):
    email: str


class Right(Payload, channel="right"):
    email: str


def answer(submitted: Submitted) -> Left:
    """Answer."""
    return Left(email=submitted.email)


def choose(submitted: Submitted) -> Left | Right:
    """Answer on the left or on the right, by the digit before the @."""
    left = submitted.email[submitted.email.index("@") - 1] in "02468"
    return Left(email=submitted.email) if left else Right(email=submitted.email)


def several(submitted: Submitted) -> list[Left]:
    """Answer 256 times."""
    return [Left(email=submitted.email)] * 256


plain, one_of_two, split = (stage(function, inline=True) for function in (answer, choose, several))
