"""A function that does nothing but import what IMPORTS names."""

import os
from importlib import import_module

from starlette.requests import Request
from starlette.responses import Response

for name in os.environ["IMPORTS"].split():
    import_module(name)


async def main(_: Request) -> Response:
    return Response()
