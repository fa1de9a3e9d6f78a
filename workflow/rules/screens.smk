# What the rules of the second task share: names, inputs, parameters. Functions only, as in common.smk.

from types import SimpleNamespace

from nmfbench.perturbation.grid import Grid
from nmfbench.perturbation.predictors import PREDICTORS
from nmfbench.perturbation.tables import say_what_failed

screens = Grid(cfg, plan.spell, plan.place)
SCREEN = "<results>/{dataset}/perturbation"
RUN = "{dataset}/perturbation/{split}/{embedding}/{predictor}/seed-{seed}"
SPLIT_FILES = f"{SCREEN}/{{split}}"
TRUTH = f"{SPLIT_FILES}/truth/{cfg.perturbation.scorer.backend}"
FIGURES = ["scores", "targets", "de_overlap"]


wildcard_constraints:
    split="|".join([*cfg.perturbation.splits, "submission"]),
    embedding="|".join([*cfg.perturbation.embeddings, "none"]),
    predictor="|".join(cfg.predictors),
    figure="|".join(FIGURES),


def screen_settings(wildcards):
    """The section of a screen."""
    return screens.screen(wildcards.dataset)


def runs_of(kind):
    """Folder of a run, for the predictors of one kind only (it matches nothing when there are none)."""
    names = "|".join(screens.of_kind(kind)) or "(?!)"
    return RUN.replace("{predictor}", f"{{predictor,{names}}}")


def say_which_runs_are_missing():
    """After a failure: the runs of the second task that are not there, and why."""
    for dataset in cfg.datasets_with("perturbation"):
        say_what_failed(screens.grid(SimpleNamespace(dataset=dataset)), plan.place("<logs>/slurm"))


def predictor_resources(kind):
    """What a training asks for: the baselines seconds of a CPU, the NB-GLM a GPU where it can use one."""
    if kind == "nb_glm":
        return gpu_resources(memory(4000, 6), 60, 1, screens.gpus)
    return {"mem_mb": memory(2000, 6), "runtime": minutes(20, 0.1)}
