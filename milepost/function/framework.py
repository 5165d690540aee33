"""Import functions-framework's ASGI application without Flask.

functions-framework imports Flask for its synchronous half, which no stage uses. That is a tenth of the CPU of a start.

1. While it is imported, placeholders are in the place of `flask` and `werkzeug`. They have the names that it needs.
2. Afterwards they are removed: a stage that imports Flask gets Flask. A placeholder that is still used imports it too.
3. If functions-framework needs another name, or logs execution ids, for which it uses Flask, it is imported as usual.
"""

import importlib
import os
import sys
from types import ModuleType
from typing import Any

_NEEDED: dict[str, dict[str, Any]] = {
    "flask": {"Request": object},
    "flask.typing": {"ResponseReturnValue": object},
    "werkzeug": {},
    "werkzeug.local": {"LocalProxy": lambda function: function},
}
"""The modules that are replaced, each with the names that functions-framework reads while it is imported."""


class Placeholder(ModuleType):
    """Stands for a module until that is imported."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            raise AttributeError(f"{self.__name__} has no {name} yet")
        return getattr(importlib.import_module(self.__name__), name)


def load() -> Any:
    """Return functions-framework's ASGI application."""
    if "LOG_EXECUTION_ID" not in os.environ and not _loaded("flask", "werkzeug", "functions_framework"):
        placeholders = _placeholders()
        sys.modules |= placeholders
        try:
            return _application()
        except (AttributeError, ImportError):  # a version that needs more of Flask
            for name in _loaded("functions_framework"):
                del sys.modules[name]
        finally:
            for name in placeholders:
                del sys.modules[name]
    return _application()


def _application() -> Any:
    return importlib.import_module("functions_framework.aio").app


def _loaded(*packages: str) -> list[str]:
    """List the modules of these packages that are loaded."""
    return [name for name in sys.modules if name.partition(".")[0] in packages]


def _placeholders() -> dict[str, Placeholder]:
    made = {name: Placeholder(name) for name in _NEEDED}
    for name, placeholder in made.items():
        vars(placeholder).update(_NEEDED[name])
        package, _, child = name.partition(".")
        if child:
            setattr(made[package], child, placeholder)
    return made
