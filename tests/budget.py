"""What each test file costs: CPU seconds of the processes and programs asked for, printed by ``--budget``.

Seconds are those of the test's process and of its finished children, all threads; programs are requests to the
compiler, whether or not the persistent cache answers them, so a warm run counts the same. Contracts count by room.
"""

import resource

import jax
import pytest

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
    """The file of a test; of a contract also the room it belongs to."""
    file, _, case = nodeid.partition("::")
    if file.endswith("test_contracts.py") and "[" in case:
        return f"{file} {'.'.join(case.split('[')[1].rstrip(']').split('.')[:2])}"
    return file


class Budget:
    """Adds up what the workers report."""

    def __init__(self):
        self.before = cpu_seconds(), _programs  # of this process, at the last report
        self.parts: dict[str, list[float]] = {}
        self.others = 0.0  # imports, collection and ends of the workers

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self):
        """Each phase's report carries what has been spent since the one before; xdist sends attributes along."""
        report = yield
        now = cpu_seconds(), _programs
        report.spent = [now[0] - self.before[0], now[1] - self.before[1]]
        self.before = now
        return report

    def pytest_collection_finish(self):
        self.before = cpu_seconds(), _programs

    def pytest_runtest_logreport(self, report):
        spent = getattr(report, "spent", None)  # a worker that died sends a report without it
        if spent is not None:
            mine = self.parts.setdefault(part(report.nodeid), [0.0, 0])
            mine[0] += spent[0]
            mine[1] += spent[1]

    def pytest_sessionfinish(self, session):
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["cpu_seconds"] = cpu_seconds()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        self.others += getattr(node, "workeroutput", {}).get("cpu_seconds", 0.0)

    def pytest_terminal_summary(self, terminalreporter, config):
        if not config.getoption("budget"):
            return
        total = self.others + cpu_seconds() if self.others else cpu_seconds()
        write = terminalreporter.write_line
        write(f"{'CPU s':>8} {'programs':>9}  file")
        for name, (seconds, programs) in sorted(self.parts.items(), key=lambda item: -item[1][0]):
            write(f"{seconds:8.1f} {programs:9.0f}  {name}")
        tests = sum(seconds for seconds, _ in self.parts.values())
        programs = sum(count for _, count in self.parts.values())
        write(f"{tests:8.1f} {programs:9.0f}  all tests; {total:.0f} CPU s with imports and collection")


def pytest_addoption(parser):
    parser.addoption("--budget", action="store_true", help="print CPU seconds and programs of each test file")


def pytest_configure(config):
    config.pluginmanager.register(Budget(), "budget-of-files")
