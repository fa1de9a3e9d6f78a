"""Calls of Snakemake with the cluster profile, and questions to the scheduler."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

REPOSITORY = Path(__file__).parents[2]
TESTBED = REPOSITORY / "tests" / "cluster" / "testbed.sh"
PROFILE = REPOSITORY / "profiles" / "slurm"
# The profile is brief, and what our rules say of a failure in its place is not the toy's.
TOY = ["--quiet", "host", "--snakefile", str(REPOSITORY / "tests" / "cluster" / "toy.smk")]
SMALL = "tests/configs/cluster.yaml"
CONFIG = os.environ.get("NMFBENCH_CLUSTER_CONFIG") or SMALL
# The pretended cluster is one small machine: fewer jobs at a time, shorter waits than a site needs.
HERE = ["--jobs", "4", "--latency-wait", "10", "--slurm-init-seconds-before-status-checks", "3"]
LONGEST = 1200


class Run:
    """A call of ``snakemake --profile`` that goes on in the background."""

    begun: ClassVar[list[Run]] = []
    over: ClassVar[bool] = False

    def __init__(self, folder: Path, *arguments: str, profile: Path = PROFILE, local: bool = False) -> None:
        assert not self.over, "the tests have ended"
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        number = len(list(folder.glob("call-*.log")))
        self.log = folder / f"call-{number}.log"
        how = ["--cores", "2"] if local else ["--profile", str(profile), *HERE]
        command = [
            sys.executable,
            "-m",
            "snakemake",
            *how,
            "--nocolor",
            "--directory",
            str(folder),
            *arguments,
        ]
        environment = {key: value for key, value in os.environ.items() if key != "SNAKEMAKE_PROFILE"}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        # job steps import the package of this checkout, whatever is installed
        environment["PYTHONPATH"] = str(REPOSITORY / "scripts")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        self.begun.append(self)

    @classmethod
    def end_all(cls) -> None:
        """End the calls that still run, and let none begin."""
        cls.over = True
        for run in cls.begun:
            if run.process.poll() is None:
                run.kill()

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, timeout: float = LONGEST) -> Run:
        """Wait for its end; a run that hangs is killed, with its jobs."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"snakemake did not end within {timeout:.0f} s:\n{self.text[-3000:]}"
            ) from None
        return self

    @property
    def code(self) -> int:
        assert self.process.returncode is not None, "it is still running"
        return self.process.returncode

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the call and its children, as a terminal does."""
        os.killpg(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait(30)

    def succeeded(self) -> Run:
        self.wait()
        assert self.code == 0, self.text[-6000:]
        return self

    @property
    def name(self) -> str:
        """Name of its jobs."""
        found = re.search(r"SLURM run ID: (\S+)", self.text)
        return found.group(1) if found else ""

    def queue(self, form: str = "%i") -> list[str]:
        """Its jobs in the queue."""
        return ask("squeue", "--noheader", f"--name={self.name}", f"--format={form}") if self.name else []

    def jobs(self) -> list[dict[str, str]]:
        """Its jobs in accounting, oldest first."""
        names = ["JobIDRaw", "Comment", "Partition", "ReqMem", "Timelimit", "State", "AllocTRES", "NodeList"]
        lines = ask("sacct", "-X", "-n", "-P", f"--name={self.name}", "-o", ",".join(names))
        return [dict(zip(names, line.split("|"), strict=True)) for line in lines]

    def job_of(self, rule: str) -> str:
        """Number of the first job of a rule, once there is one."""

        def found() -> str | None:
            match = re.search(rf"SLURM jobid (\d+) \(log: \S*/(?:rule|group)_{rule}\w*/", self.text)
            return match.group(1) if match else None

        return wait_until(found, f"a job of rule {rule}", self)


def ask(*command: str) -> list[str]:
    """Lines that a program of the scheduler prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def wait_until(condition: Callable[[], object], what: str, run: Run | None = None, timeout: float = 600):
    """The first true value of a condition."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert run is None or run.process.poll() is None, f"{what}: the run ended:\n{run.text[-4000:]}"
        assert time.monotonic() < end, f"{what}: not within {timeout:.0f} s"
        time.sleep(0.3)
    return value


def edited_profile(folder: Path, changes: Sequence[tuple[str, str]]) -> Path:
    """A copy of the profile in which lines are edited as a site edits them."""
    text = (PROFILE / "profile.yaml").read_text()
    for old, new in changes:
        assert old in text, f"the profile has no line with {old!r}"
        text = text.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "profile.yaml").write_text(text)
    return folder


def processes() -> set[str]:
    """What runs on this machine of a SLURM, and of the jobs of the pretended one."""
    daemons = {"munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "slurmstepd", "srun", "sbatch"}
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "comm").read_text().strip()
            of_a_job = b"SLURM_CLUSTER_NAME=testbed\0" in (process / "environ").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if name in daemons or of_a_job:
            found.add(f"{name} ({process.name})")
    return found


def csvs(folder: Path, dataset: str = Path(SMALL).stem) -> dict[str, str]:
    """The published tables of a run."""
    tables = folder / "results" / dataset / "tables"
    return {path.name: path.read_text() for path in tables.glob("*.csv")}


def minutes(text: str) -> int:
    """SLURM's [days-]hours:minutes:seconds."""
    days, _, clock = text.rpartition("-")
    hours, mins, _ = map(int, clock.split(":"))
    return (int(days or 0) * 24 + hours) * 60 + mins
