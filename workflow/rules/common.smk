# Where the package is, the config, and what the rules ask of them. Functions only; the rules are in the other files.

import os
import re
import signal
import sys
from pathlib import Path

# The package beside these rules is the one that runs, here and in the jobs, whatever else is installed. Rules that
# Snakemake reads out of a repository (a deployed module) have none beside them: it is then the installed one.
PLACE = workflow.current_basedir.get_path_or_uri(secret_free=True)
REPOSITORY = None if "://" in PLACE else Path(PLACE).parents[1]
if REPOSITORY is not None:
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    if REPOSITORY / "scripts" not in Path(getattr(sys.modules.get("nmfbench"), "__file__", "")).parents:
        for name in [name for name in sys.modules if name.partition(".")[0] == "nmfbench"]:
            del sys.modules[name]

try:
    from nmfbench import checkout, manifest, terminal
except ModuleNotFoundError as error:
    raise WorkflowError(
        f"{PLACE}: the package nmfbench is not installed\n"
        "  expected:   it in Snakemake's own environment, as these rules are read from a repository\n"
        f"  got:        {error}\n"
        '  what to do: pip install "nmfbench[workflow] @ git+<the repository>@<the tag that is deployed>"'
    ) from None
from nmfbench.config import load_config
from nmfbench.config.files import check_files, missing_sources
from nmfbench.errors import InputError, unwritable
from nmfbench.grid import COMPARISON, PROJECTION
from nmfbench.metrics import METRICS
from nmfbench.metrics.neighbours import neighbour_widths
from nmfbench.models import cards
from nmfbench.packages import missing_packages
from nmfbench.plan import Plan
from nmfbench.revisions import revision, training_revision

if REPOSITORY is not None:
    checkout.lend_to_jobs(REPOSITORY / "scripts")

try:
    check_files(workflow.configfiles)
    cfg = load_config(
        config,
        where=", ".join(map(str, workflow.configfiles)) or "--config",
        say=logger.warning if workflow.is_main_process else lambda text: None,  # once, and not by every job
    )
except InputError as error:
    raise WorkflowError(str(error)) from None

# Kept once: another workflow may import this one as a module, and when jobs are planned the variables and the prefix
# that Snakemake would give are that workflow's.
plan = Plan(cfg, workflow.pathvars.apply, workflow.modifier.path_modifier.replace_prefix)


wildcard_constraints:
    dataset="|".join(cfg.datasets),
    model="|".join(cfg.models),
    label="|".join(map(re.escape, cfg.label_paths)),
    rank=r"\d+",
    seed=r"\d+",
    other_model="|".join(cfg.models),
    other_rank=r"\d+",
    other_seed=r"\d+",
    cv_seed=r"\d+",


# ---- signals and handlers


def name_what_is_missing():
    """Before any job: files that the config names, and packages of models and scores where jobs use this environment."""
    lacking = missing_sources(cfg.datasets, plan.place("<results>"))
    if not workflow.deployment_settings.deployment_method:
        wanted = ((name, cfg.card(name).package) for name, section in cfg.models.items())
        scores = ((name, METRICS[name].package) for name in cfg.integration.metrics)
        lacking += missing_packages(wanted) + missing_packages(scores, "metric", "integration.metrics")
    for message in lacking:
        logger.warning(str(message))


if "SLURM_JOB_ID" in os.environ:
    # The profile asks for SIGUSR1 ahead of the time limit. It reaches every process of the job; whoever is around
    # the training must not die of it, and the training sets a handler of its own.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def write_manifest():
    """Before any work: what was asked for, by which code, where, through which scheduler."""
    try:
        _write_manifest()
    except OSError as error:
        raise WorkflowError(str(unwritable(error, plan.place("<results>")))) from None


def _write_manifest():
    sharing = {dataset: plan.sharing(dataset) for dataset in cfg.datasets_with("embedding")}
    manifest.write(
        plan.place("<results>/manifest.json"),
        cfg.model_dump(),
        REPOSITORY,
        workflow.configfiles,
        executor=workflow.executor_plugin.name,
        site=site,
        sharing={dataset: decided.record() for dataset, decided in sharing.items()},
    )
    for dataset, decided in sharing.items():
        if decided.setting == "auto" and decided.n_fits > 1:
            logger.info(
                f"datasets.{dataset}.shared_statistics: {str(decided.shared).lower()}: {decided.reason}."
            )


def report_missing():
    """After a failure: which fits are there, which are not and why, and where to look."""
    if not cfg.datasets_with("embedding"):
        return
    manifest.report_missing(
        *plan.everything(), plan.place("<results>"), plan.logs["train"], plan.place("<logs>")
    )
