"""The package's imports as docs/architecture.md draws them: no circle, and nothing reaches up."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

LOWEST = {
    *(
        "errors",
        "endings",
        "memory",
        "atomic",
        "by_gene",
        "compiled",
        "device",
        "gram_cost",
        "least_squares",
        "linalg",
        "paths",
        "section",
    ),
    *("packages", "renamed", "tables.files", "threads"),
}
"""What knows nothing of cells, models or tables; every module may import it."""

FORBIDDEN = {
    "models": {"job", "tables", "figures", "metrics", "results", "config", "tensorboard", "train"},
    "statistics": {"job", "models", "tables", "figures"},
    "fitting": {"models", "data", "figures", "tensorboard", "job", "rows", "statistics"},
    "rows": {"models", "job", "fitting", "statistics"},
    "data": {"models", "job", "rows", "statistics", "fitting", "figures", "metrics"},
    "metrics": {"models", "job", "figures"},
    "figures": {"data", "models", "job", "train"},
    "tables": {"models", "job", "train"},
}
"""What a layer of the document must not know, wherever the import stands."""

REGISTRY = {("figures", "models")}
"""Who may read the registry of models, for names and colours, and nothing of the models themselves."""


@pytest.fixture(scope="module")
def imports(repository) -> dict[str, set[str]]:
    """The modules that each module imports: at its head, in functions, and for types alone."""
    return read_imports(repository / "scripts" / "nmfbench")


def read_imports(root: Path) -> dict[str, set[str]]:
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found = {}
    for name, path in modules.items():
        targets = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                joined = {f"{node.module}.{alias.name}" for alias in node.names}
                targets |= {each if each in modules else node.module for each in joined}
            elif isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
        found[name] = {target for target in targets if target in modules and target != name}
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that import one another, by what is left when leaves are taken away from both ends."""
    graph = {name: set(targets) for name, targets in graph.items()}
    for backwards in (False, True):
        while True:
            ends = {name for name, targets in graph.items() if not targets & graph.keys()}
            if not ends:
                break
            graph = {name: targets - ends for name, targets in graph.items() if name not in ends}
        if not backwards:
            graph = {name: {o for o in graph if name in graph[o]} for name in graph}
    return [sorted(graph)] if graph else []


def test_circles_are_found():
    tree = {"a": {"b"}, "b": {"c"}, "c": set()}
    assert circles(tree) == []
    assert circles(tree | {"c": {"b"}, "d": {"a"}}) == [["b", "c"]]


def test_no_circle_of_imports_also_for_types(imports):
    assert circles(imports) == []


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_layers_do_not_reach_up(layer, imports):
    reached = {}
    for name, targets in imports.items():
        if not f"{name}.".startswith(f"nmfbench.{layer}."):
            continue
        for target in targets:
            inside = target.removeprefix("nmfbench.")
            if (
                inside.split(".")[0] in FORBIDDEN[layer]
                and inside not in LOWEST
                and (layer, inside) not in REGISTRY
            ):
                reached.setdefault(name, []).append(target)
    assert not reached


def test_the_lowest_layer_knows_itself_alone(imports):
    lowest = {f"nmfbench.{name}" for name in LOWEST}
    assert lowest <= imports.keys()
    for name in lowest:
        assert imports[name] <= lowest, name


def test_every_module_of_a_fit_is_there(imports):
    """The test reads what it is thought to read."""
    assert "nmfbench.fitting.engine" in imports["nmfbench.fitting.loop"]
    assert "nmfbench.models.autoencoder.exact.sweeps" in imports["nmfbench.models.autoencoder.estimator"]
    assert len(imports) > 150
