"""Does a test fail when a check is gone? Each check of the verifying functions is deleted, negated and weakened.

Run it as ``make mutation``, or ``python -m tests.mutation [--only TEXT]... [--workers N] [--list]``. Everything is
imported and collected once; each mutant is a fork in which one function has other code (:mod:`tests.worlds.edits`) and
the tests that reach that function run until the first failure. Mutants that survive are printed and the exit status is
1, unless they stand in :data:`EQUIVALENT` with the reason why no test can tell them from the original.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import CodeType
from typing import Final, NoReturn

import hypothesis
import pytest

from tests.worlds.edits import Function, FunctionNode, announcing, compiled, functions, install, tree

# What is mutated: every verifying function of these modules, and of the modules that they are made of.
ENTRIES: Final = ("participant.protocol.round", "participant.runs.journal", "coordinator.protocol.round")
PACKAGES: Final = ("participant.", "coordinator.", "privacy.secagg.")
# What decides beside them whether something is believed; not what these are made of.
ALSO: Final = (
    "participant.runs.erasure",
    "participant.runs.participation",
    "participant.runs.global_adapter",
    "participant.runs.round_training",
    "participant.runs.round_update",
    "participant.runs.tasks",
    "participant.runs.open_runs",
    "participant.runs.rollback",
    "participant.owner.ledger",
    "participant.owner.ledger_directory",
    "participant.owner.peer_heads",
    "participant.owner.plan_store",
    "participant.owner.reservations",
    "coordinator.runs.uploads",
    "privacy.plan",
    "privacy.plan_parts",
    "privacy.secagg.graph_bounds",
    "privacy.ledger",
    "audit.verify",
    "audit.history",
    "audit.ledger_export",
)
# Of these modules some functions alone: the rest verifies nothing that a round rests on.
ONLY: Final[dict[str, tuple[str, ...]]] = {
    "privacy.secagg.masks": ("check",),
    "coordinator.database.lease_rows": ("Lease.require",),
    "coordinator.runs.attempt": ("Attempt._replay_one", "Attempt._replay", "Attempt._accumulate", "Attempt.announced"),
}

TESTS: Final = (
    "tests/test_malicious_coordinator.py",
    "tests/test_malicious_participant.py",
    "tests/test_malicious_dealer.py",
    "tests/test_malicious_hybrid.py",
    "tests/test_malicious_k_regular.py",
    "tests/test_k_regular_rounds.py",
    "tests/test_transitions.py",
    "tests/test_walkthrough.py",
    "tests/coordinator/test_coordinator_round.py",
    "tests/coordinator/test_attempt_replay.py",
    "tests/coordinator/test_coordinator_runner.py",
    "tests/coordinator/test_leadership.py",
    "tests/coordinator/test_quotas.py",
    "tests/coordinator/test_run_lifecycle.py",
    "tests/coordinator/test_set_back.py",
    "tests/coordinator/test_uploads.py",
    "tests/test_malicious_histories.py",
    "tests/participant/test_coordinator_set_back.py",
    "tests/participant/test_erasure.py",
    "tests/participant/test_home_part.py",
    "tests/test_voided_rounds.py",
    "tests/participant/test_journal.py",
    "tests/participant/test_kept_sums.py",
    "tests/participant/test_journal_copied_back.py",
    "tests/participant/test_ledger_set_back.py",
    "tests/participant/test_ledgers_of_a_machine.py",
    "tests/participant/test_lies_told_to_a_daemon.py",
    "tests/participant/test_offers.py",
    "tests/participant/test_participation.py",
    "tests/participant/test_peer_heads.py",
    "tests/participant/test_plan_store.py",
    "tests/participant/test_reanchor.py",
    "tests/participant/test_reservations.py",
    "tests/participant/test_round_update.py",
    "tests/participant/test_runs.py",
    "tests/participant/test_steps_verified.py",
    "tests/audit/test_audit_ledger.py",
    "tests/audit/test_audit_limits.py",
    "tests/audit/test_audit_verify.py",
    "tests/audit/test_maker_statements.py",
    "tests/audit/test_voided_reports.py",
    "tests/participant/test_participant_ledger.py",
    "tests/privacy/test_ledger_chain.py",
    "tests/privacy/test_measurement.py",
    "tests/privacy/test_plan.py",
    "tests/privacy/test_plan_limits.py",
    "tests/privacy/test_printable.py",
    "tests/privacy/test_secagg_dealing.py",
    "tests/privacy/test_secagg_fixed_point.py",
    "tests/privacy/test_secagg_graph.py",
    "tests/privacy/test_secagg_graph_bounds.py",
    "tests/privacy/test_secagg_keys.py",
    "tests/privacy/test_secagg_masks.py",
    "tests/privacy/test_secagg_messages.py",
    "tests/privacy/test_secagg_parameters.py",
    "tests/privacy/test_secagg_shamir.py",
    "tests/privacy/test_secagg_suites.py",
    "tests/privacy/test_wycheproof.py",
)
# Of the processor: a mutant that runs longer than this, and than all its tests took several times over without it, does
# not end, and a test would notice.
SECONDS: Final = 30
TIMES: Final = 3
CALLED: Final = "_a_function_was_called"  # what functions call while it is looked which test reaches them

_GAP, _TOLERANCE = "abs(stated - computed)", "absolute + relative * computed"
_SPEND, _WORTH = "rdp.composed(after.events, budget.order)", "budget.divergence"
_BOUNDS: Final = "MIN_MULTIPLIER <= privacy.noise_multiplier <= MAX_MULTIPLIER"
_NO_MULTIPLIER: Final = "a square root over an integer: none lies exactly on a bound that a plan can reach"
_OPENED: Final = "both are there since the attempt was opened: said for the type checker"

# Mutants that no test can tell from the original: (function, change) -> reason.
EQUIVALENT: Final[dict[tuple[str, str], str]] = {
    (
        "_measurement",
        "largest_sum(self) > canonical.MAX_INTEGER  ->  largest_sum(self) >= canonical.MAX_INTEGER",
    ): "no roster's size divides 2^53 - 1",
    ("check", "found.total > -cohort.bits  ->  found.total >= -cohort.bits"): "no bound is exactly what is asked",
    (
        "_share_threshold",
        "lacking <= -LIVENESS_BITS * math.log(2)  ->  lacking < -LIVENESS_BITS * math.log(2)",
    ): "no bound is exactly what is asked",
    (
        "_pair_with",
        "share.dealer < state.participant.me  ->  share.dealer <= state.participant.me",
    ): "nobody is passed its own share",
    ("_deal", "name != participant.me  ->  True"): "a link with oneself is never used",
    ("short_of_holders", "self.graph.complete  ->  False"): (
        "in the complete graph whoever is there holds shares, and they are at least m: this saves counting them"
    ),
    ("_accumulate", "receipt.length == 0  ->  False"): "no empty upload is ever announced, so none lies there",
    ("from_bytes", "'plan'  ->  False"): "a word of the refusal",
    ("owner", "isinstance(first, Genesis)  ->  True"): "a chain that was verified begins with it: for the type checker",
    ("_mechanism", f"{_BOUNDS}  ->  {_BOUNDS.replace('<=', '<', 1)}"): _NO_MULTIPLIER,
    ("_mechanism", f"{_BOUNDS}  ->  {'<'.join(_BOUNDS.rsplit('<=', 1))}"): _NO_MULTIPLIER,
    (
        "verify_ledger",
        "not isinstance(genesis, Genesis)  ->  False",
    ): "verify_export has checked it: for the type checker",
    ("_close", f"{_GAP} <= {_TOLERANCE}  ->  {_GAP} < {_TOLERANCE}"): "no figure lies exactly on the tolerance",
    ("_close", "stated > computed  ->  stated >= computed"): "equal figures are close, whichever tolerance is taken",
    (
        "require_budget",
        f"{_SPEND} > {_WORTH}  ->  {_SPEND} >= {_WORTH}",
    ): "no spend is exactly a budget's worth",
    ("count_stray", "above < self.bits  ->  True"): "a word shifted by all of its bits is 0: this saves looking",
    ("count_stray", "above < self.bits  ->  above <= self.bits"): "a word shifted by all of its bits is 0",
    ("train", "self._trainer is None or self._adapter is None  ->  False"): _OPENED,
    ("train", "self._trainer is None  ->  False"): _OPENED,
    ("train", "self._adapter is None  ->  False"): _OPENED,
}

_OPPOSITE: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_NEIGHBOUR: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}


@dataclass(frozen=True)
class Mutant:
    """One change to one function."""

    function: Function
    node: ast.AST
    new: ast.AST

    @property
    def line(self) -> str:
        """What is there and what comes instead."""
        return f"{_source(self.node)}  ->  {_source(self.new)}"

    @property
    def name(self) -> str:
        """Where and what, for the table."""
        return f"{self.function.module}.{self.function.qualname}:{getattr(self.node, 'lineno', 0)}  {self.line}"

    @property
    def reason(self) -> str:
        """Why it is equivalent to the original, or nothing."""
        return EQUIVALENT.get((self.function.node.name, self.line), "")


def _source(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())


# --- which mutants there are ---


def made_of(entries: Iterable[str]) -> set[str]:
    """Return the modules of the packages that these import, directly or not, and they themselves."""
    found: set[str] = set()
    pending = list(entries)
    while pending:
        module = pending.pop()
        if module not in found and module in sys.modules and module.startswith(PACKAGES):
            found.add(module)
            for node in ast.walk(tree(module)):
                if isinstance(node, ast.ImportFrom) and node.module:
                    pending += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
    return found


def mutants(module: str, only: Iterable[str] = ()) -> Iterator[Mutant]:
    """Yield the mutants of a module's verifying functions, or of the named ones alone."""
    for function in functions(module):
        if (function.qualname in only) if only else verifies(function.node):
            seen: set[tuple[int, str]] = set()
            for node, new in _changes(function.node):
                key = (getattr(node, "lineno", 0), f"{getattr(node, 'col_offset', 0)} {_source(new)}")
                if key not in seen:
                    seen.add(key)
                    yield Mutant(function, node, new)


def verifies(node: FunctionNode) -> bool:
    """Return whether a function refuses something: by raising, or by returning ``False`` or ``None``."""
    return _is_bool(node) or any(
        (isinstance(one, ast.If) and _refuses(one.body[-1]))
        or (isinstance(one, ast.Expr) and _is_check(one))
        or (isinstance(one, ast.ExceptHandler) and _refuses(one.body[-1]))
        or (isinstance(one, ast.Return) and isinstance(one.value, ast.IfExp))
        for one in ast.walk(node)
    )


def _refuses(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Return):
        return isinstance(statement.value, ast.Constant) and statement.value.value in (None, False)
    return isinstance(statement, ast.Raise)


def _changes(function: FunctionNode) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Guards are deleted, negated and taken apart; calls of checks are dropped; bounds of sets are lifted."""
    for node in ast.walk(function):
        match node:
            case ast.If(test=test, body=[*_, last]) if _refuses(last) or _is_check(last):
                yield test, ast.Constant(_is_check(last))
                yield from _guard(test)
            case ast.ExceptHandler(body=[*_, ast.Raise() as last]):
                yield last, ast.Pass()
            case ast.match_case(guard=ast.expr() as guard):
                yield guard, ast.Constant(True)
                yield from _guard(guard)
            case ast.Expr() if _is_check(node):
                yield node, ast.Pass()
            case ast.Call(args=[members, *_], keywords=keywords):
                bounds = {"least": ast.Constant(0), "within": members}
                yield from ((keyword.value, bounds[keyword.arg]) for keyword in keywords if keyword.arg in bounds)
        for condition in _conditions(node, function):
            yield condition, ast.Constant(True)
            yield from _guard(condition)


def _conditions(node: ast.AST, function: FunctionNode) -> list[ast.expr]:
    """Conditions of which ``True`` is what lets something pass."""
    match node:
        case ast.IfExp(test=test):
            return [test]
        case ast.comprehension(ifs=conditions):
            return conditions
        case ast.Return(value=ast.expr() as value) if _is_bool(function) and not isinstance(value, ast.Constant):
            return [value]
        case ast.Assign(value=ast.Compare() | ast.BoolOp() | ast.Call(func=ast.Name("all" | "any")) as value):
            return [value]
    return []


def _is_bool(function: FunctionNode) -> bool:
    return function.returns is not None and ast.unparse(function.returns) == "bool"


def _is_check(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name))):
            return "check" in name
    return False


def _guard(condition: ast.expr) -> Iterator[tuple[ast.AST, ast.AST]]:
    """The condition negated, each comparison in it negated or moved by one, each operand dropped."""
    yield condition, _negated(condition)
    for node in ast.walk(condition):
        match node:
            case ast.Compare():
                yield from _weaker(node)
            case ast.BoolOp(op=op, values=values):
                yield from ((value, ast.Constant(isinstance(op, ast.And))) for value in values)


def _negated(node: ast.expr) -> ast.expr:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return node.operand
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return _with_operator(node, 0, _OPPOSITE[type(node.ops[0])])
    return ast.UnaryOp(ast.Not(), node)


def _weaker(node: ast.Compare) -> Iterator[tuple[ast.AST, ast.AST]]:
    for index, operator in enumerate(node.ops):
        yield node, _with_operator(node, index, _OPPOSITE[type(operator)])
        if type(operator) in _NEIGHBOUR:
            yield node, _with_operator(node, index, _NEIGHBOUR[type(operator)])
    if len(node.ops) == 2:  # a <= b <= c: each half alone
        yield node, ast.Compare(node.left, node.ops[:1], node.comparators[:1])
        yield node, ast.Compare(node.comparators[0], node.ops[1:], node.comparators[1:])


def _with_operator(node: ast.Compare, index: int, operator: type[ast.cmpop]) -> ast.Compare:
    operators = [operator() if place == index else one for place, one in enumerate(node.ops)]
    return ast.Compare(node.left, operators, node.comparators)


# --- running them ---


@dataclass(frozen=True)
class Reach:
    """The tests that call a function, fastest first, and what they take of the processor."""

    tests: tuple[pytest.Item, ...]
    seconds: float

    @classmethod
    def of(cls, items: Sequence[pytest.Item], timed: Iterable[tuple[float, int]]) -> Reach:
        """Make it of seconds and indices."""
        ordered = sorted(timed)
        return cls(tuple(items[index] for _, index in ordered), sum(seconds for seconds, _ in ordered))


class Runner:
    """A pytest plugin that, once all tests are collected, runs mutants instead of a test session."""

    def __init__(self, *, only: Sequence[str], workers: int, listing: bool) -> None:
        self._only = only
        self._workers = workers
        self._listing = listing
        self._failed = False
        self._originals: dict[Function, CodeType] = {}
        self.survivors: list[Mutant] = []
        self.disturbed = False
        self.total = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a failure in the process that runs the test."""
        self._failed |= report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Map functions to tests, then fork once a mutant."""
        chosen = [one for one in self._mutants() if not self._only or any(text in one.name for text in self._only)]
        self.total = len(chosen)
        if self._listing:
            for one in chosen:
                print(one.name)
            return True
        reached = self._reached(session.items, {one.function for one in chosen})
        started, waiting = time.monotonic(), list(chosen)
        running: dict[int, Mutant] = {}
        while waiting or running:
            while waiting and len(running) < self._workers:
                mutant = waiting.pop(0)
                running[self._fork(mutant, reached[mutant.function])] = mutant
            process, status = os.wait()
            self._note(running.pop(process), status, done=self.total - len(waiting) - len(running), since=started)
        self.disturbed = self._fails_without_mutation(session.items)
        return True

    @staticmethod
    def _mutants() -> Iterator[Mutant]:
        for entry in (*ENTRIES, *ALSO, *ONLY):
            import_module(entry)
        for module in sorted({*made_of(ENTRIES), *ALSO, *ONLY}):
            yield from mutants(module, ONLY.get(module, ()))

    def _reached(self, items: Sequence[pytest.Item], chosen: set[Function]) -> dict[Function, Reach]:
        """Run every test once; return, for each function, the tests that call it."""
        found: dict[str, list[tuple[float, int]]] = {function.name: [] for function in chosen}
        hits = set[str]()
        vars(builtins)[CALLED] = hits.add
        for module in {function.module for function in chosen}:
            of_module = [function for function in chosen if function.module == module]
            for function, code in announcing(module, CALLED, of_module).items():
                self._originals[function] = install(function, code)
        forget = next(functions(ENTRIES[0]))
        for index, item in enumerate(items):
            hits.clear()
            install(forget, forget.live.__code__)  # so that no answer is cached by an earlier test
            started = time.process_time()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            if self._failed:
                raise SystemExit(f"{item.nodeid} fails without any mutation")
            for name in hits:
                found[name].append((time.process_time() - started, index))
        for function, code in self._originals.items():
            install(function, code)
        return {function: Reach.of(items, found[function.name]) for function in chosen}

    def _fork(self, mutant: Mutant, reach: Reach) -> int:
        process = os.fork()
        if not process:
            limit = SECONDS + round(TIMES * reach.seconds)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            install(mutant.function, compiled(mutant.function, {mutant.node: mutant.new}))
            self._run_in_silence(reach.tests)
        return process

    def _fails_without_mutation(self, items: Sequence[pytest.Item]) -> bool:
        """Return whether tests fail now that passed before, and which: then nothing was shown."""
        process = os.fork()
        if not process:
            self._run_in_silence(items, named_on=os.dup(1))
        return os.waitpid(process, 0)[1] != 0

    def _run_in_silence(self, tests: Iterable[pytest.Item], *, named_on: int | None = None) -> NoReturn:
        """End this process with status 1 at the first test that fails, whose name is written there, or with 0."""
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        for item in tests:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            if self._failed:
                if named_on is not None:
                    os.write(named_on, f"{item.nodeid} fails without any mutation\n".encode())
                os._exit(1)
        os._exit(0)

    def _note(self, mutant: Mutant, status: int, *, done: int, since: float) -> None:
        if status == 0 and not mutant.reason:
            self.survivors.append(mutant)
            print(f"survived: {mutant.name}", flush=True)
        if status != 0 and mutant.reason:
            print(f"no longer equivalent: {mutant.name}", flush=True)
            self.survivors.append(mutant)
        if done % 50 == 0 or done == self.total:
            print(f"{done} of {self.total} mutants, {time.monotonic() - since:.0f} s", flush=True)


def main() -> int:
    """Run the mutants and return 1 if one survives."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", action="append", default=[], help="mutants whose name contains this text")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="name the mutants and run nothing")
    asked = parser.parse_args()
    # A failing example must neither be shrunk nor remembered: it is the mutant's.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile(
        "mutation",
        database=None,
        derandomize=True,
        phases=phases,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),  # slowness is the machine's
    )
    hypothesis.settings.load_profile("mutation")
    runner = Runner(only=asked.only, workers=asked.workers, listing=asked.list)
    status = pytest.main(
        # A library with threads of its own, as that of buckets has, does not survive a fork.
        [
            "-p",
            "no:terminal",
            "-p",
            "no:timeout",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "-m",
            "not objects",
            *TESTS,
        ],
        plugins=[runner],
    )
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return int(status)
    print(f"\n{len(runner.survivors)} of {runner.total} mutants survive")
    for survivor in runner.survivors:
        print(f"  {survivor.name}")
    if runner.disturbed:
        print("but that test passed at first: files were edited meanwhile, or it is unsteady; run it again")
    return 1 if runner.survivors or runner.disturbed else 0


if __name__ == "__main__":
    sys.exit(main())
