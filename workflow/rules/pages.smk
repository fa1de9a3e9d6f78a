# What of the tables is shown in the report, and under which words. Functions only.

in_report = report  # at the beginning of a line, `report` is a keyword of Snakemake's


def score_tables(name, table, suffix="csv"):
    """The published tables of one kind of score, for each label and rank: as CSVs, or as pages to be read."""
    return [
        in_report(
            f"<results>/{{dataset}}/tables/{name}_by_{path}_k{rank}.{suffix}",
            caption=f"../report/{name.split('_')[0]}_csv.rst",
            category="Tables",
            labels={
                **{"dataset": "{dataset}", "table": table, "by": label, "rank": str(rank)},
                "as": {"csv": "CSV", "html": "page"}[suffix],
            },
        )
        for path, label in cfg.label_paths.items()
        for rank in cfg.ranks
    ]


def page(file, caption, category, table):
    """A page of a dataset's report."""
    labels = {"dataset": "{dataset}", "table": table}
    return in_report(
        f"<results>/{{dataset}}/{file}", caption=f"../report/{caption}.rst", category=category, labels=labels
    )
