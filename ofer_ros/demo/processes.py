"""Child processes of one run: started together, logged to files, and surely ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from ofer_ros.base.domains import lent_domain

HELP = {"help_option_names": ["-h", "--help"]}  # context settings of the commands, as all of ofer's have them
START_LIMIT = 90.0  # seconds until all is at work: three interpreters and the bundle's sessions on a slow machine


class DemoError(RuntimeError):
    """The run cannot go on; the text says why, in one line, and where to look."""


@contextmanager
def own_domain() -> Iterator[dict[str, str]]:
    """Environment of a run: a ROS domain of its own keeps two of them on one machine apart."""
    with lent_domain() as domain:
        yield {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}


@contextmanager
def reported(name: str) -> Iterator[None]:
    """A DemoError inside is one line on stderr and exit status 1."""
    try:
        yield
    except DemoError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)


class Processes:
    """Context manager: on leaving, whatever still runs gets SIGINT, then SIGTERM, then SIGKILL.

    The first Ctrl-C or SIGTERM leaves it, as an exception; any further one kills what is left at once.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        """folder: for one log file a process; environment: variables on top of this process's."""
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._children: dict[str, subprocess.Popen] = {}
        self._before: dict[int, object] = {}  # handlers of the signals outside
        self._starting = self._leaving = False
        self._waiting: int | None = None  # a signal that came while a child was started
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Processes:
        # Also where SIGINT is ignored, as in a script's background jobs: children inherit that, and would not hear
        # `stop` before they have handlers of their own.
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving = True
        self.stop(*self._children)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: object) -> None:
        if self._leaving:
            for child in self._children.values():
                child.kill()
        elif self._starting:  # a child that is not known yet would outlive this process
            self._waiting = number
        else:
            self._leaving = True
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def start(self, name: str, module: str, parameters: dict[str, object], remaps: Sequence[str] = ()) -> None:
        """Run `python -m module` with ROS parameters, from <folder>/<name>.yaml; its output goes to <name>.log.

        remaps: rules 'from:=to'.
        """
        file = self._folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
        rules = [part for rule in remaps for part in ("-r", rule)]
        self._starting = True
        with self.log_file(name).open("w") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", module, "--ros-args", *rules]
                + (["--params-file", str(file)] if parameters else []),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._environment,
                # Ctrl-C on the terminal is for the parent alone, which then ends its children in order.
                start_new_session=True,
            )
        self._starting = False
        if self._waiting is not None:
            self._on_signal(self._waiting, None)

    def log_file(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def pid(self, name: str) -> int:
        return self._children[name].pid

    def status(self, name: str) -> int | None:
        """Exit status, or None while it runs."""
        return self._children[name].poll()

    def stop(self, *names: str, patience: float = 20.0) -> None:
        """End these processes, the first way that works."""
        for number, seconds in ((signal.SIGINT, patience), (signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
            running = [self._children[name] for name in names if self._children[name].poll() is None]
            for child in running:
                child.send_signal(number)
            for child in running:
                try:
                    child.wait(seconds)
                except subprocess.TimeoutExpired:
                    continue

    def problems(self, name: str, *marks: str) -> list[str]:
        """Lines of a log with one of `marks`; without any given, those that warn, fail or end a traceback."""
        lines = self.log_file(name).read_text(errors="replace").splitlines()
        marks = marks or ("[WARN]", "[ERROR]", "[FATAL]", "Error:", "error:")
        return [line for line in lines if any(mark in line for mark in marks)]

    def last_words(self, name: str) -> str:
        """The last line of a log that tells of trouble, and where the log is."""
        lines = self.problems(name) or ["(nothing was logged)"]
        return f"{lines[-1]} [{self.log_file(name)}]"
