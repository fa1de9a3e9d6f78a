# Small rules for what the workflow's own rules cannot be made to do on purpose.


rule all:
    input:
        "boom.txt",
        "after_boom.txt",
        "fine.txt",
    localrule: True


rule boom:
    output:
        "boom.txt",
    log:
        "logs/boom.log",
    shell:
        "echo half > {output}; echo 'no such luck' > {log}; exit 1"


rule after_boom:
    input:
        "boom.txt",
    output:
        "after_boom.txt",
    shell:
        "cp {input} {output}"


rule fine:
    output:
        "fine.txt",
    shell:
        "sleep 5; echo fine > {output}"


# Too slow for the first time limit, of one minute; told nothing beforehand.
rule slow:
    output:
        "slow.txt",
    resources:
        runtime=lambda wildcards, attempt: 1 if attempt == 1 else 5,
        nap=lambda wildcards, attempt: 600 if attempt == 1 else 0,
        slurm_extra="--nice=1",
    shell:
        "sleep {resources.nap}; echo done > {output}"


rule nap:
    output:
        "nap_{seconds}.txt",
    log:
        "logs/nap_{seconds}.log",
    shell:
        "echo begins > {log}; sleep {wildcards.seconds}; echo done > {output}"


# ---- short fits that share a GPU job; whichever of them begins first fails, once

from snakemake.scheduling import job_scheduler

from nmfbench.shared_gpu import let_groups_fall_apart

let_groups_fall_apart(job_scheduler.JobScheduler, lambda job: job.rule.name == "train_toy")


rule train_toy:
    output:
        "fit_{name}.txt",
    group:
        "fits"
    threads: 2
    resources:
        slurm_partition="gpu",
        slurm_extra="--nice=1",
        gpu=1,
        gpu_turn=1,
        mem_mb=lambda wildcards, attempt: 600 * attempt,
        runtime=lambda wildcards, attempt: 2 * attempt,
    shell:
        "echo {wildcards.name} begins $SLURM_JOB_ID >> turns.txt; echo half > {output}; sleep 2; "
        "echo {wildcards.name} ends $SLURM_JOB_ID >> turns.txt; if mkdir first 2> /dev/null; then exit 1; fi; echo done > {output}"


rule score_toy:
    input:
        "fit_{name}.txt",
    output:
        "score_{name}.txt",
    shell:
        "cp {input} {output}"
