"""Two revisions of the user's repository: each built in a place of its own, its benchmarks run by
pytest in turns. The user's working tree is never touched.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sllmbench.ab.rounds import Limits, TurnsResult, take_turns
from sllmbench.compare.inputs import read_file
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sllmbench.ab.rounds import Tell

_TOLD = 1500
"""Characters of a failed build's or test's output that are shown."""
QUICK = ("--benchmark-max-time=0.2", "--benchmark-min-rounds=5")
"""Before the user's own options, which override it: a session is one observation, however long."""


@dataclass(frozen=True)
class Revisions:
    """What to build and run.

    Attributes:
        base: a commit as git understands it.
        new: the other one.
        pytest_arguments: which tests, and options for pytest.
        tests_from: the revision or folder that the tests are taken from; None: the new revision.
        build_command: a shell command run in each checkout that installs into the folder
            ``$SLLMBENCH_TARGET``; None: pip, with the project's own build isolation.
    """

    base: str
    new: str
    pytest_arguments: Sequence[str] = ()
    tests_from: str | None = None
    build_command: str | None = None


def ab_revisions(
    wanted: Revisions,
    limits: Limits,
    tell: Tell = lambda what, fraction: None,
    folder: Path | None = None,
) -> TurnsResult:
    """Compare the benchmarks of two revisions of the repository that ``folder`` lies in.

    Raises:
        InputError: no repository or revision of that name, a build or test that failed, or tests
            that imported something else than the build.
    """
    repository = Path(_git(folder or Path.cwd(), "rev-parse", "--show-toplevel"))
    commits = [_commit(repository, revision) for revision in (wanted.base, wanted.new)]
    with ExitStack() as stack:
        room = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sllmbench-ab-")))
        targets = []
        for side, commit in zip(("base", "new"), commits, strict=True):
            tell(f"building {side} {commit[:10]}", None)
            checkout = stack.enter_context(_worktree(repository, commit, room / f"{side}-source"))
            targets.append(_build(checkout, room / side, wanted.build_command))
        tests, said = _tests(stack, repository, wanted, commits[1], room, targets)
        shutil.copy(Path(__file__).with_name("witness.py"), room / "sllmbench_ab_witness.py")
        turns = [_Session(target, tests, room, wanted.pytest_arguments) for target in targets]
        labels = tuple(
            f"{name} ({commit[:10]})"
            for name, commit in zip((wanted.base, wanted.new), commits, strict=True)
        )
        notes = (said, "a benchmark's time is the median of a pytest session, one a round and side")
        return take_turns(
            turns[0].turn,
            turns[1].turn,
            limits,
            labels=(labels[0], labels[1]),
            notes=notes,
            tell=tell,
        )


@dataclass(frozen=True)
class _Session:
    """The benchmarks of one build."""

    target: Path
    tests: Path
    room: Path
    arguments: Sequence[str]

    def turn(self) -> Mapping[str, float]:
        """Run pytest once; the median of each benchmark in ns."""
        times, witness = self.room / "times.json", self.room / "witness.json"
        for file in (times, witness):
            file.unlink(missing_ok=True)
        names = _installed(self.target)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(self.target), str(self.room))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "SLLMBENCH_AB_WITNESS": str(witness),
            "SLLMBENCH_AB_MODULES": ",".join(names),
        }
        # -P: the folder that pytest is run in must not come before the build.
        command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "sllmbench_ab_witness"]
        command += ["-p", "no:cacheprovider", f"--benchmark-json={times}", *QUICK, *self.arguments]
        done = _run(command, self.tests, environment)
        if done.returncode != 0:
            raise InputError(
                f"pytest ended with {done.returncode} over the build of {self.target.name}:"
                f" {_tail(done)}"
            )
        if not witness.exists():
            raise InputError(f"pytest ran no session with {' '.join(self.arguments)}")
        self._require_build(json.loads(witness.read_text()))
        if not times.exists():
            raise InputError("pytest-benchmark wrote no times; is it installed here?")
        return {name: statistics.median(run.samples_ns) for name, run in read_file(times)}

    def _require_build(self, files: Mapping[str, str]) -> None:
        """Refuse times of anything but the build."""
        if not files:
            raise InputError(
                f"the tests imported none of {', '.join(_installed(self.target))}, which is what"
                " the build installs"
            )
        for name, file in files.items():
            if not Path(file).is_relative_to(self.target):
                raise InputError(
                    f"the tests imported {name} from {file}, not from the build; something puts it"
                    " before PYTHONPATH (a conftest.py, `pythonpath`, or a .pth file)"
                )


@contextmanager
def _worktree(repository: Path, commit: str, where: Path) -> Iterator[Path]:
    """A checkout that is gone afterwards, from git's list too."""
    try:
        _git(repository, "worktree", "add", "--detach", "--quiet", str(where), commit)
        yield where
    finally:
        done = _run(["git", "worktree", "remove", "--force", str(where)], repository)
        if done.returncode != 0:  # it was not made, or half of it
            shutil.rmtree(where, ignore_errors=True)
            _run(["git", "worktree", "prune"], repository)


def _build(checkout: Path, target: Path, command: str | None) -> Path:
    target.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    words = (
        [*pip, "--no-deps", "--target", str(target), "."]
        if command is None
        else ["/bin/sh", "-c", command]
    )
    done = _run(words, checkout, {**os.environ, "SLLMBENCH_TARGET": str(target)})
    if done.returncode != 0:
        raise InputError(f"the build of {target.name} ended with {done.returncode}: {_tail(done)}")
    if not _installed(target):
        raise InputError(f"the build of {target.name} installed no module into $SLLMBENCH_TARGET")
    return target


def _tests(
    stack: ExitStack,
    repository: Path,
    wanted: Revisions,
    new: str,
    room: Path,
    targets: Sequence[Path],
) -> tuple[Path, str]:
    """The folder to run pytest in, without what the builds install, and whose tests those are."""
    origin = wanted.tests_from
    copy = room / "tests"
    if origin is not None and Path(origin).is_dir():
        shutil.copytree(origin, copy, ignore=shutil.ignore_patterns(".git"), symlinks=True)
        said = f"both sides run the tests of the folder {origin}"
    else:
        commit = new if origin is None else _commit(repository, origin)
        stack.enter_context(_worktree(repository, commit, copy))
        said = f"both sides run the tests of {origin or wanted.new}"
    for name in {name for target in targets for name in _installed(target)}:
        for source in (copy / name, copy / "src" / name):
            shutil.rmtree(source, ignore_errors=True)
            source.with_suffix(".py").unlink(missing_ok=True)
    return copy, said


def _installed(target: Path) -> list[str]:
    """Modules at the top of a build."""
    names = {
        entry.name.partition(".")[0]
        for entry in target.iterdir()
        if (entry.is_dir() and "." not in entry.name) or entry.suffix in (".py", ".so")
    }
    return sorted(names - {"__pycache__", "bin"})


def _commit(repository: Path, revision: str) -> str:
    try:
        return _git(repository, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    except InputError:
        raise InputError(f"{revision!r} is no commit of {repository}") from None


def _git(folder: Path, *arguments: str) -> str:
    # The user's hooks have no business in a checkout that lives for a minute.
    done = _run(["git", "-c", f"core.hooksPath={os.devnull}", *arguments], folder)
    if done.returncode != 0:
        raise InputError(f"git {arguments[0]} failed in {folder}: {_tail(done)}")
    return done.stdout.strip()


def _run(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # so that all it started can be ended with it
        )
    except OSError as error:
        raise InputError(f"cannot run {command[0]}: {error.strerror}") from error
    with process:
        try:
            out, err = process.communicate()
        finally:  # an interrupt must leave no compiler that writes into a folder that goes
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _tail(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join(f"{done.stdout} {done.stderr}".split())[-_TOLD:]
