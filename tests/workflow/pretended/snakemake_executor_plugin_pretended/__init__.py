"""A scheduler without a cluster: jobs are processes of this machine, and one of them is killed underway.

The first job of several trainings is killed with all that it has begun, as by the loss of its node, when the
first of them is finished and another has written its second checkpoint. `jobs.jsonl` in the folder that
NMFBENCH_TEST_KILL_AT names has a line for each job that has ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    auto_deploy_default_storage_provider=False,
    # what says that a GPU was asked of the scheduler: a job would look for it
    pass_default_resources_args=False,
)


class Executor(RemoteExecutor):
    """Each job in a session of its own, so that all of it can be killed at once."""

    def __post_init__(self):
        self.folder = Path(os.environ["NMFBENCH_TEST_KILL_AT"])
        self.killed = False

    def run_job(self, job):
        process = subprocess.Popen(self.format_job_exec(job), shell=True, start_new_session=True)
        told = SubmittedJobInfo(job, external_jobid=str(process.pid), aux={"process": process, "told": {}})
        self.report_job_submission(told)

    async def check_active_jobs(self, active_jobs):
        for told in active_jobs:
            process = told.aux["process"]
            if told.job.is_group() and not self.killed:
                self.kill_underway(told)
            code = process.poll()
            if code is None:
                yield told
                continue
            members = told.job if told.job.is_group() else [told.job]
            record = {"rules": [job.rule.name for job in members], "code": code, **told.aux["told"]}
            with (self.folder / "jobs.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            if code:
                self.report_job_error(told)
            else:
                self.report_job_success(told)

    def kill_underway(self, told):
        """Kill a group of trainings between the end of its first member and that of its second."""
        done, underway = [], []
        for job in told.job:
            folder = Path(job.output[0]).parent
            if (folder / "run.json").exists() and not (folder / "checkpoint").exists():
                done.append(job.rule.name)
            elif (folder / "checkpoint" / "previous.npz").exists():
                underway.append(job.rule.name)
        if done and underway:
            self.killed = True
            os.killpg(told.aux["process"].pid, signal.SIGKILL)
            told.aux["process"].wait()
            told.aux["told"] = {"done": done, "underway": underway}

    def cancel_jobs(self, active_jobs):
        for told in active_jobs:
            os.killpg(told.aux["process"].pid, signal.SIGTERM)
