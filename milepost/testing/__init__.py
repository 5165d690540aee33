"""Test a pipeline: one stage alone, or all stages with a real Redis.

`run` and `answer` call a stage through the real codec, without a server; `LocalPipeline` runs stages, bridge and
Redis; `milepost.testing.contract` has the tests that every stage inherits. Install the extra `testing`.
"""

import pytest

# Before the modules are imported, so that pytest shows the values in their failed assertions.
pytest.register_assert_rewrite("milepost.testing.contract", "milepost.testing.posting")

from milepost.events.examples import example
from milepost.testing.calling import Problem, answer, answers, described, load, run, run_all
from milepost.testing.pipeline import LocalPipeline

__all__ = ["LocalPipeline", "Problem", "answer", "answers", "described", "example", "load", "run", "run_all"]
