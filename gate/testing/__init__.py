"""For tests of users' own: run an action, a chain or a case by the worker's engine, and say what must come of it."""

from gate.chain.loader import load_chain
from gate.testing.asserts import assert_approved, assert_denied, assert_expected, assert_validation_error
from gate.testing.cases import Case, load_cases
from gate.testing.difference import Difference
from gate.testing.event import build_event
from gate.testing.expectation import Expectation
from gate.testing.log import InMemoryLog
from gate.testing.result import Result
from gate.testing.run import run_action, run_chain

__all__ = [
    "Case",
    "Difference",
    "Expectation",
    "InMemoryLog",
    "Result",
    "assert_approved",
    "assert_denied",
    "assert_expected",
    "assert_validation_error",
    "build_event",
    "load_cases",
    "load_chain",
    "run_action",
    "run_chain",
]
