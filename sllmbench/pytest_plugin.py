"""pytest's plugin: ``kernel_benchmark``, and a comparison with an earlier session that can fail.

It works with pytest-benchmark, whose table, files and options stay as they are, and does nothing
in a session that does not ask for it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sllmbench.compare import Comparison, Thresholds
    from sllmbench.compare.series import Series
    from sllmbench.origin import RunOrigin
    from sllmbench.record import BenchmarkRecord

DEFAULT_PRECISION = "1%"
DEFAULT_MAX_SECONDS = 5.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options, each with our name."""
    group = parser.getgroup("sllmbench", "kernel benchmarks under sllmbench's sampling")
    group.addoption(
        "--sllmbench-precision",
        default=DEFAULT_PRECISION,
        metavar="PERCENT",
        help="sample until the median's 95%% interval is ± this (default 1%%)",
    )
    group.addoption(
        "--sllmbench-max-time",
        type=float,
        default=DEFAULT_MAX_SECONDS,
        metavar="SECONDS",
        help=f"or until this is over, for each benchmark (default {DEFAULT_MAX_SECONDS:g})",
    )
    group.addoption(
        "--sllmbench-store",
        metavar="FILE",
        help="also append the records to this store, for `sllmbench history`",
    )
    group.addoption(
        "--sllmbench-compare",
        metavar="BASE",
        help="compare with this: a pytest-benchmark JSON file, one of ours, or a run in the store;"
        " exit 1 where a benchmark is slower",
    )
    group.addoption(
        "--sllmbench-max-slowdown",
        action="append",
        metavar="PERCENT",
        help="what is not yet slower, as 2.5%%, or NAME-GLOB=2.5%% for some benchmarks"
        " (default 10%%, because one run a side cannot tell less)",
    )
    group.addoption(
        "--sllmbench-force",
        action="store_true",
        help="compare although hardware, threads, ISA or library versions differ",
    )
    group.addoption(
        "--sllmbench-strict",
        action="store_true",
        help="exit 1 also where a benchmark's comparison cannot tell",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Keep what the session measures; a base that cannot be read ends it before anything runs."""
    config.stash[_STATE] = _State(config)


@pytest.hookimpl(trylast=True)  # after the files of --benchmark-json are written
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Compare, and let a benchmark that became slower fail the session."""
    state = session.config.stash[_STATE]
    state.compare()
    words = [] if state.comparison is None else [v.word for v in state.comparison.verdicts]
    failed = "slower" in words or (
        "cannot tell" in words and session.config.getoption("--sllmbench-strict")
    )
    if (failed or state.error is not None) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the comparison."""
    state = terminalreporter.config.stash[_STATE]
    if state.comparison is None and state.error is None:
        return
    terminalreporter.section("sllmbench: compared with an earlier session")
    if state.error is not None:
        terminalreporter.write_line(f"error: {state.error}")
    if state.comparison is not None:
        from sllmbench.cli.display import lines
        from sllmbench.report import verdicts

        comparison = state.comparison
        for line in lines(lambda width: verdicts.table(comparison, width)):
            terminalreporter.write_line(line)


class _State:
    """The records of a session and their comparison."""

    def __init__(self, config: pytest.Config) -> None:
        self.records: list[BenchmarkRecord] = []
        self.comparison: Comparison | None = None
        self.error: str | None = None
        self._config = config
        self._origin: RunOrigin | None = None
        self._base: list[Series] | None = None
        self._thresholds: Thresholds | None = None
        try:
            self._read_options()
        except InputError as error:
            raise pytest.UsageError(str(error)) from None

    def _read_options(self) -> None:
        """Refuse at once what would fail later, or would gate nothing."""
        precision = self._config.getoption("--sllmbench-precision")
        base = self._config.getoption("--sllmbench-compare")
        gates = ("--sllmbench-max-slowdown", "--sllmbench-force", "--sllmbench-strict")
        given = [name for name in gates if self._config.getoption(name)]
        if precision == DEFAULT_PRECISION and base is None and not given:
            return  # nothing to read, and nothing to import for it
        from sllmbench.cli.arguments import fraction, thresholds_of

        fraction("--sllmbench-precision", precision)
        if base is None and given:
            raise InputError(f"{given[0]} gates nothing without --sllmbench-compare=BASE")
        if base is None:
            return
        slowdown = self._config.getoption("--sllmbench-max-slowdown")
        self._thresholds = thresholds_of(slowdown, option="--sllmbench-max-slowdown")
        self._read_base(base)

    def _read_base(self, base: str) -> None:
        from sllmbench.compare.inputs import read_side

        file = self._config.getoption("--sllmbench-store")
        self._base = read_side([base], None if file is None else Path(file))

    def compare(self) -> None:
        """Give verdicts on what was measured, where a base was named."""
        if self._base is None:
            return
        if not self.records:
            self.error = "no kernel_benchmark ran, so there is nothing to compare"
            return
        from sllmbench.compare import compare_series
        from sllmbench.compare.inputs import of_records
        from sllmbench.compare.series import Series

        named = of_records(self.records, "this session")
        try:
            self.comparison = compare_series(
                self._base,
                [Series(name, (run,)) for name, run in named],
                labels=(self._config.getoption("--sllmbench-compare"), "this session"),
                thresholds=self._thresholds,
                force=self._config.getoption("--sllmbench-force"),
            )
        except InputError as error:
            self.error = str(error)

    def measure(self, name: str, call: Callable[[], object], **options: Any) -> BenchmarkRecord:
        """Time the call and keep its record."""
        from sllmbench.cli.arguments import fraction
        from sllmbench.microbench.function import Work, benchmark_function
        from sllmbench.origin import RunOrigin

        if self._origin is None:
            self._origin = RunOrigin.begin()
        record = benchmark_function(
            self._origin,
            name,
            call,
            work=Work(options["flops"], options["bytes"], options["peak"]),
            cache=options["cache"],
            precision=fraction(
                "--sllmbench-precision", self._config.getoption("--sllmbench-precision")
            ),
            max_seconds=self._config.getoption("--sllmbench-max-time"),
        )
        self.records.append(record)
        file = self._config.getoption("--sllmbench-store")
        if file is not None:
            from sllmbench.store import Store

            with Store(file) as store:
                store.append(record)
        return record


_STATE = pytest.StashKey[_State]()


class KernelBenchmark:
    """The fixture: ``kernel_benchmark(fn, *args, flops=..., bytes=...)`` returns fn's result."""

    def __init__(self, benchmark: Any, state: _State) -> None:
        """Report to pytest-benchmark's fixture as well."""
        self._benchmark = benchmark
        self._state = state
        self.record: BenchmarkRecord | None = None
        """What was measured; None before the call and where benchmarks are disabled."""

    def __call__(
        self,
        function: Callable[..., Any],
        *args: Any,
        flops: float | None = None,
        bytes: float | None = None,
        peak: str | None = None,
        cache: str = "hot",
    ) -> Any:
        """Time ``function(*args)`` and return what it gives; ``functools.partial`` binds keywords.

        Args:
            function: what is timed.
            args: its arguments.
            flops: arithmetic operations of a call, a multiply-add counting two.
            bytes: that a call must read and write at least.
            peak: ``fp32`` or ``int8``: the arithmetic whose measured peak bounds it too.
            cache: ``hot``, or ``cold``: the caches are cleared before every call.

        Raises:
            InputError: a number outside its range.
        """
        if self.record is not None:
            raise InputError("kernel_benchmark can only be used once in a test")
        call = partial(function, *args)
        if not self._benchmark.enabled:
            return call()
        result = call()
        self.record = self._state.measure(
            self._benchmark.fullname, call, flops=flops, bytes=bytes, peak=peak, cache=cache
        )
        report(self._benchmark, self.record)
        return result


def report(benchmark: Any, record: BenchmarkRecord) -> None:
    """Put the record into pytest-benchmark's results.

    pytest-benchmark has no public way to take samples that another timed; these two names of its
    fixture are what its own ``pedantic`` uses, and a test runs its table and its files over them.
    """
    benchmark._mode = "kernel_benchmark(...)"
    calls = record.calls_per_sample[0]
    stats = benchmark._make_stats(calls)
    for sample_ns in record.samples_ns:
        stats.update(sample_ns * 1e-9 * calls)
    benchmark.extra_info |= {
        "gbs": record.gbs,
        "gflops": record.gflops,
        "roof_fraction": record.roof_fraction,
        "joules": record.energy_j_per_call,
        "isa": record.isa,
        "disturbed": record.disturbed,
        "sllmbench": record.model_dump(mode="json"),
    }


@pytest.fixture
def kernel_benchmark(benchmark: Any, request: pytest.FixtureRequest) -> KernelBenchmark:
    """Time a function under sllmbench's sampling; see :class:`KernelBenchmark`."""
    return KernelBenchmark(benchmark, request.config.stash[_STATE])
