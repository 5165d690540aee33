"""The project's payload classes, read from the source of functions/payloads.py without running it."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from milepost.errors import ConfigurationError

PAYLOADS = Path("functions/payloads.py")


@dataclass(frozen=True)
class PayloadClasses:
    """`by_channel`: channel → class name. `bare`: channels that carry one bare JSON value. `names`: every name that the
    module defines or imports.
    """

    text: str
    by_channel: dict[str, str]
    bare: frozenset[str]
    names: frozenset[str]


def read(project: Path) -> PayloadClasses:
    """The payload classes of the project in this folder. Raises ConfigurationError naming the file."""
    path = project / PAYLOADS
    try:
        text = path.read_text()
        module = ast.parse(text)
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: not found; run this in the project's folder") from None
    except (SyntaxError, ValueError) as fault:
        raise ConfigurationError(f"{path}: {fault}") from None
    found = {channel: node for node in module.body if isinstance(node, ast.ClassDef) for channel in _channels(node)}
    return PayloadClasses(
        text=text,
        by_channel={channel: node.name for channel, node in found.items()},
        bare=frozenset(channel for channel, node in found.items() if _is_bare(node)),
        names=frozenset(name for node in module.body for name in _names(node)),
    )


def _channels(node: ast.ClassDef) -> Iterator[str]:
    for keyword in node.keywords:
        match keyword:
            case ast.keyword(arg="channel", value=ast.Constant(value=str(channel))):
                yield channel


def _is_bare(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Subscript) and ast.unparse(base.value) == "RootPayload" for base in node.bases)


def _names(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            yield node.name
        case ast.Import() | ast.ImportFrom():
            yield from (alias.asname or alias.name for alias in node.names)
        case _:
            yield from (name.id for name in ast.walk(node) if isinstance(name, ast.Name))
