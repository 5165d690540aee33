"""The comparison of a command's output with a document, and the commands that are found in one."""

import pytest

from tests.documents.blocks import steps
from tests.documents.comparing import renamed, same, same_response
from tests.documents.not_run import why_not_run

ONE, OTHER = "01a1fc58-2c1d-7b3f-8d49-25e83ea0cf8a", "01a1fc59-863c-7fa7-9c79-d6d221de24f8"
HEAD = "HTTP/1.1 200 OK\r\nce-id: 7\r\nce-type: place\r\ndate: today\r\n\r\n"


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        (f'{{"id":"{ONE}"}}', f'{{"id":"{OTHER}"}}\n'),
        ("raw_input   0 ms", "raw_input     17 ms"),
        ("1795250018760-0  2026-11-21 08:33:38  422", "1795250018771-3 2027-01-01 00:00:00 422"),
        ("first\n…\nlast", "first\nanything\nat all\nlast"),
        ("53 passed in 2.10s", "53 passed in 97.92s (0:01:37)"),
    ],
)
def test_ids_and_times_are_compared_as_equal(expected: str, printed: str) -> None:
    assert same(expected, printed)


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("You are 2216.0742916592476 miles", "You are 2216.0742916592475 miles"),
        ("1 replayed", "0 replayed"),
        ("raw_input 0 ms", "calculated_distance 0 ms"),
        ("a", "a\nb"),
        ("first\n…\nlast", "first\nat all"),
    ],
)
def test_other_differences_are_not_equal(expected: str, printed: str) -> None:
    assert not same(expected, printed)


def test_a_response_must_have_the_status_the_headers_and_the_body_that_are_shown() -> None:
    printed = f'{HEAD}{{"city":"London"}}'
    assert same_response('HTTP/1.1 200 OK\nce-type: place\nce-id: 7\n\n{"city":"London"}', printed)
    assert not same_response('HTTP/1.1 200 OK\nce-type: place\n\n{"city":"Paris"}', printed)
    assert not same_response("HTTP/1.1 200 OK\nce-type: other", printed)
    assert not same_response("HTTP/1.1 202 Accepted", printed)


def test_an_id_that_is_shown_stands_for_the_one_of_this_run() -> None:
    assert renamed(f'{{"id":"{ONE}"}}', f'{{"id":"{OTHER}"}}') == {ONE: OTHER}


def test_commands_are_separated_from_their_output() -> None:
    text = """
Words.

    curl -i http://127.0.0.1:8000 \\
         --json '{}'                       # remark
    HTTP/1.1 200 OK

    body
    # between
    NAME=$(cat file)

    # functions/mine/main.py
    def mine() -> None: ...

```console
$ make run
ready
make is a word here
```
"""
    # An indented block goes on over empty lines, so what begins a file must have a block of its own.
    found = steps("d.md", text.replace("    # functions", "\nWords.\n\n    # functions"))
    assert [(step.command.splitlines()[0], step.output) for step in found] == [
        ("curl -i http://127.0.0.1:8000 \\", "HTTP/1.1 200 OK\n\nbody"),
        ("NAME=$(cat file)", ""),
        ("# functions/mine/main.py", "def mine() -> None: ...\n"),
        ("make run", "ready\nmake is a word here"),
    ]


def test_command_that_is_not_run_has_a_reason() -> None:
    assert why_not_run("kubectl get pods") == "needs a cluster"
    assert why_not_run("make run") is None
