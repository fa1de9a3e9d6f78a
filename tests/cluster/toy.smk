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
