"""The commands of a Markdown document, each with the output that is shown below it, and the files that it writes.

A block is fenced (```sh, ```console, or no language) or indented by four spaces. In it a line is a command if it
begins with `$ `, or, in a block without prompts, with one of COMMANDS; the lines below it are its output. A block that
begins with `# path/of/file.py` is that file's text, `# path/of/file.py: class Name` that of one class in it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

COMMANDS = (
    *("cat", "cd", "cp", "curl", "docker", "export", "for", "git", "grep", "head", "helm", "kill", "kind", "knative/"),
    *("kubectl", "ls", "make", "minikube", "mkdir", "mongodump", "mongorestore", "pip", "python", "redis-cli", "rm"),
    *("sed", "skaffold", "tail", "test", "trap", "wc", ".venv/bin/"),
)
SHELL = ("", "sh", "console", "bash", "shell")

_STARTS = re.compile(rf"(?:{'|'.join(map(re.escape, COMMANDS))})(?<=/)|(?:{'|'.join(map(re.escape, COMMANDS))})\s")
_ASSIGNS = re.compile(r"(?:export )?[A-Z][A-Z_]*=\S")
_FILE = re.compile(r"# (?P<path>[\w./-]+\.(?:py|toml|yaml))(?:: class (?P<name>\w+))?")
_FENCE = re.compile(r"```(\w*)$")


@dataclass(frozen=True)
class Block:
    """Lines of a document, without their indentation. `line`: the number of the first, from 1."""

    line: int
    language: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """Something to do: a command with the output it shows (none: it only has to succeed), or a file to write."""

    document: str
    line: int
    command: str
    output: str = ""
    path: Path | None = None
    name: str | None = None

    @property
    def title(self) -> str:
        return f"{self.document}:{self.line} {self.command.splitlines()[0][:60]}"


def steps(document: str, text: str) -> list[Step]:
    """Every step of a document, in its order."""
    return [step for block in blocks(text) for step in _steps(document, block)]


def blocks(text: str) -> Iterator[Block]:
    """The code blocks of a Markdown text."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence:
            end = next((n for n in range(number + 1, len(lines)) if lines[n].startswith("```")), len(lines))
            yield Block(number + 2, fence[1], tuple(lines[number + 1 : end]))
        elif lines[number].startswith("    ") and (number == 0 or not lines[number - 1].strip()):
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield Block(number + 1, "", tuple(line[4:] for line in lines[number:end]))
            end -= 1
        else:
            end = number
        number = end + 1


def _steps(document: str, block: Block) -> Iterator[Step]:
    file = _FILE.fullmatch(block.lines[0]) if block.lines else None
    if file:
        body = "\n".join(block.lines[1:]).strip("\n") + "\n"
        yield Step(document, block.line, block.lines[0], body, Path(file["path"]), file["name"])
    elif block.language in SHELL:
        yield from _commands(document, block)


def _commands(document: str, block: Block) -> Iterator[Step]:
    prompts = any(line.startswith("$ ") for line in block.lines)
    starts = [n for n, line in enumerate(block.lines) if _is_command(line, prompts=prompts)]
    taken = 0
    for position, start in enumerate(starts):
        if start < taken:
            continue  # a line of the command before
        taken = _end(block.lines, start)
        until = next((n for n in starts[position + 1 :] if n >= taken), len(block.lines))
        command = "\n".join(block.lines[start:taken])
        yield Step(
            document,
            block.line + start,
            command.removeprefix("$ ") if prompts else command,
            "\n".join(_without_remarks(block.lines[taken:until])).strip("\n"),
        )


def _is_command(line: str, *, prompts: bool) -> bool:
    return line.startswith("$ ") if prompts else bool(_STARTS.match(line) or _ASSIGNS.match(line))


def _end(lines: Sequence[str], start: int) -> int:
    """One past the command's last line: backslashes continue it, and `for` is closed by `done`."""
    end = start + 1
    while end < len(lines) and lines[end - 1].endswith("\\"):
        end += 1
    if lines[start].removeprefix("$ ").startswith("for "):
        while end < len(lines) and not re.search(r"\bdone\b", lines[end - 1]):
            end += 1
    return end


def _without_remarks(lines: Sequence[str]) -> list[str]:
    """Without the comments that stand between commands."""
    return [line for line in lines if not line.startswith("# ")]
