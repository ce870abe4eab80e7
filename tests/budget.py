"""What each test file costs: CPU seconds of the processes and programs asked for, printed by ``--budget``.

Seconds are those of the test's process and of its finished children, all threads; programs are requests to the
compiler, whether or not the persistent cache answers them, so a warm run counts the same. Contracts and examples count
by room, and each notebook for itself: how many of them one worker happens to run says nothing of any. Compiling is most
of what the suite costs, so a part that asks for more than `MAX_PROGRAMS` fails the run.
"""

import os
import resource

import jax
import pytest

MAX_PROGRAMS = 700  # of one file in one worker
PROGRAM_EVENT = "/jax/core/compile/backend_compile_duration"

_programs = 0


def _count(event, *_, **__):
    global _programs
    _programs += event == PROGRAM_EVENT


jax.monitoring.register_event_duration_secs_listener(_count)


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    each = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in each)


def part(nodeid: str) -> str:
    """The file of a test; of a contract and of a module's examples also the room, of a notebook its name."""
    file, _, case = nodeid.partition("::")
    if case.startswith("test_notebook"):
        return f"{file} {case.split('[')[1].rstrip(']')}"
    if file.endswith("test_contracts.py") and "[" in case or case.startswith("test_doctests["):
        return f"{file} {'.'.join(case.split('[')[1].rstrip(']').split('.')[:2])}"
    return file


class Budget:
    """Adds up what the workers report."""

    def __init__(self):
        self.before = cpu_seconds(), _programs  # of this process, at the last report
        self.parts: dict[str, list[float]] = {}
        self.programs: dict[str, dict[str, int]] = {}  # by worker: two that share a file repeat some

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self):
        """Each phase's report carries what has been spent since the one before; xdist sends attributes along."""
        report = yield
        now = cpu_seconds(), _programs
        worker = os.environ.get("PYTEST_XDIST_WORKER", "")
        report.spent = [now[0] - self.before[0], now[1] - self.before[1], worker]
        self.before = now
        return report

    def pytest_collection_finish(self):
        self.before = cpu_seconds(), _programs

    def pytest_runtest_logreport(self, report):
        spent = getattr(report, "spent", None)  # a worker that died sends a report without it
        if spent is not None:
            seconds, programs, worker = spent
            mine = self.parts.setdefault(part(report.nodeid), [0.0, 0])
            mine[0] += seconds
            mine[1] += programs
            by_worker = self.programs.setdefault(part(report.nodeid), {})
            by_worker[worker] = by_worker.get(worker, 0) + programs

    def dear(self) -> list[str]:
        """Files above the ceiling; contracts have as many programs as their room has functions."""
        most = {name: max(counts.values()) for name, counts in self.programs.items() if "test_contracts" not in name}
        return [f"{name} asks for {count} programs" for name, count in most.items() if count > MAX_PROGRAMS]

    def pytest_sessionfinish(self, session):
        worker = hasattr(session.config, "workeroutput")
        if not worker and self.dear() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter, config):
        write = terminalreporter.write_line
        for line in self.dear():
            write(f"BUDGET {line}, more than {MAX_PROGRAMS}: stack cases, share one jitted program, set up with NumPy")
        if not config.getoption("budget"):
            return
        write(f"{'CPU s':>8} {'programs':>9}  file")
        for name, (seconds, programs) in sorted(self.parts.items(), key=lambda item: -item[1][0]):
            write(f"{seconds:8.1f} {programs:9.0f}  {name}")
        tests = sum(seconds for seconds, _ in self.parts.values())
        programs = sum(count for _, count in self.parts.values())
        write(f"{tests:8.1f} {programs:9.0f}  all tests; {cpu_seconds():.0f} CPU s with imports and collection")


def pytest_addoption(parser):
    parser.addoption("--budget", action="store_true", help="print CPU seconds and programs of each test file")


def pytest_configure(config):
    config.pluginmanager.register(Budget(), "budget-of-files")
