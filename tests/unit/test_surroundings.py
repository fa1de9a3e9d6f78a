"""What machines set and lack: homes, backends, signals, accounting, and configs with slips."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from nmfbench import caches
from nmfbench.cluster import do_without_accounting
from nmfbench.config import load_config
from nmfbench.config.files import check_files, main
from nmfbench.data.source import source_state
from nmfbench.errors import InputError
from nmfbench.job import EXIT_INTERRUPTED, EXIT_MEMORY
from test_job import finish, run_script

# ---- caches


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def test_a_home_that_can_be_written_to_is_left_alone(run_folder, tmp_path):
    environment = {"HOME": str(tmp_path)}
    assert caches.settle(environment) is None
    assert environment == {"HOME": str(tmp_path)}


@pytest.mark.parametrize("home", [None, "", "/proc/nobody"])
def test_without_a_home_caches_lie_in_the_run(run_folder, home):
    environment = {} if home is None else {"HOME": home}
    chosen = caches.settle(environment)
    assert chosen == run_folder / ".snakemake" / "caches"
    assert environment["XDG_CACHE_HOME"] == str(chosen)
    assert environment["NUMBA_CACHE_DIR"] == str(chosen / "numba")
    assert environment["MPLCONFIGDIR"] == str(chosen / "matplotlib")


def test_a_full_home_counts_as_none(run_folder, tmp_path, monkeypatch):
    full = tmp_path / "home" / ".cache"
    really = caches.has_room
    monkeypatch.setattr(caches, "has_room", lambda folder: folder != full and really(folder))
    assert caches.settle({"HOME": str(tmp_path / "home")}) == run_folder / ".snakemake" / "caches"


def test_a_full_folder_of_temporary_files(run_folder, tmp_path, monkeypatch):
    full = tmp_path / "scratch"
    really = caches.has_room
    monkeypatch.setattr(caches, "has_room", lambda folder: folder != full and really(folder))
    environment = {"HOME": str(tmp_path), "TMPDIR": str(full)}
    caches.settle(environment)
    assert environment["TMPDIR"] == environment["TMP"] == str(run_folder / ".snakemake" / "tmp")
    assert "XDG_CACHE_HOME" not in environment


def test_what_the_person_set_stays(run_folder, tmp_path):
    environment = {"MPLCONFIGDIR": str(tmp_path)}
    caches.settle(environment)
    assert environment["MPLCONFIGDIR"] == str(tmp_path)
    environment = {"XDG_CACHE_HOME": str(tmp_path / "mine"), "HOME": "/proc/nobody"}
    assert caches.settle(environment) is None


def test_snakemake_starts_without_a_home(run_folder, repository):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("XDG")}
    environment |= {"HOME": "/proc/nobody", "PYTHONPATH": str(repository / "scripts")}
    code = "import os; print(os.environ.get('XDG_CACHE_HOME'))"
    for words, expected in (["snakemake"], str(run_folder / ".snakemake" / "caches")), (["other"], "None"):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


# ---- jobs


def test_a_notebooks_backend_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    code, text = finish(tmp_path, "import matplotlib; print('backend', matplotlib.get_backend())")
    assert code == 0
    assert "backend agg" in text


def test_a_locale_without_letters(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    code, text = finish(tmp_path, "import logging; logging.getLogger('x').info('γδ T cell'); print('Müller')")
    assert code == 0
    assert "γδ T cell" in text
    assert "Müller" in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_work_that_does_not_look_is_broken_off(tmp_path, number):
    body = """
        import time
        print('ready', flush=True)
        try:
            time.sleep(60)
        except Exception:
            print('caught')
        """
    process, log = run_script(tmp_path, body)
    deadline = time.monotonic() + 30
    while not (log.exists() and "ready" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == EXIT_INTERRUPTED
    assert f"was stopped by {signal.Signals(number).name}" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert "caught" not in log.read_text()


def test_the_announcement_of_the_time_limit_ends_nothing(tmp_path):
    body = "import os, signal; os.kill(os.getpid(), signal.SIGUSR1); print('went on')"
    code, text = finish(tmp_path, body)
    assert code == 0
    assert "went on" in text


def test_no_memory_for_a_map_is_memory(tmp_path):
    assert (
        finish(tmp_path, "import errno; raise OSError(errno.ENOMEM, 'Cannot allocate memory')")[0]
        == EXIT_MEMORY
    )


# ---- SLURM without accounting


def test_a_cluster_without_accounting(caplog):
    def missing(*_):
        raise FileNotFoundError(2, "No such file or directory", "sacct")

    plugin = SimpleNamespace(get_account=missing, validate_account=missing)
    do_without_accounting(plugin)
    do_without_accounting(plugin)  # read again by a module
    said = []
    logger = SimpleNamespace(warning=said.append)
    assert plugin.get_account(logger) is None
    assert plugin.validate_account("lab", logger) == "lab"
    assert "'lab' is taken as it is" in said[0]


def test_a_cluster_with_accounting_is_asked():
    plugin = SimpleNamespace(
        get_account=lambda logger: "mine", validate_account=lambda account, logger: "checked"
    )
    do_without_accounting(plugin)
    assert plugin.get_account(None) == "mine"
    assert plugin.validate_account("x", None) == "checked"


# ---- sources


def test_a_source_is_known_by_size_date_and_content(tmp_path):
    path = tmp_path / "atlas.h5ad"
    path.write_bytes(bytes(range(256)) * 4096)
    os.utime(path, (10**9, 10**9))
    first = source_state(path)
    assert source_state(path) == first
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 9000] = b"x" * 9000
    path.write_bytes(content)
    os.utime(path, (10**9, 10**9))
    assert source_state(path)["sample"] != first["sample"]
    os.utime(path, (9 * 10**8, 9 * 10**8))
    assert source_state(path)["modified"] == 9 * 10**8
    assert source_state(tmp_path / "none") is None
    assert source_state("") is None


# ---- configs


SMALLEST = {"datasets": {"d": {"path": "x.h5ad"}}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ranks": [True]}, "ranks"),
        ({"seeds": [False]}, "seeds"),
        ({"ranks": [2, 2]}, "ranks"),
        ({"normalisation": {"target_sum": float("inf")}}, "normalisation.target_sum"),
        ({"clustering": {"resolution": float("inf")}}, "clustering.resolution"),
        ({"clustering": {"resolution": float("nan")}}, "clustering.resolution"),
        ({"clustering": {"n_iterations": 0}}, "n_iterations"),
        ({"clustering": {"seeds": [1, 1]}}, "clustering.seeds"),
        ({"clustering": {"n_neighbours": True}}, "n_neighbours"),
        ({"classification": {"seeds": [1, 1]}}, "classification.seeds"),
        ({"classification": {"classifiers": ["knn", "knn"]}}, "classification.classifiers"),
        ({"classification": {"n_folds": 11}}, "n_folds"),
        ({"datasets": {"logs": {"path": "x"}}}, "datasets.logs"),
        ({"models": {"tables": {"kind": "base_nmf"}}}, "models.tables"),
        ({"datasets": {"d": {"path": ""}}}, "datasets.d.path"),
        ({"datasets": {"d": {"path": "a{b}.h5ad"}}}, "path: {"),
        ({"datasets": {"d": {"path": "<results>/x.h5ad"}}}, "path: <results>"),
        ({"datasets": {"d": {"path": "x", "cell_type_column": "a", "donor_column": "a"}}}, "donor_column"),
        ({"datasets": {"d": {"path": "x", "condition_columns": ["a", "a"]}}}, "condition_columns"),
        ({"datasets": {"d": {"path": "x", "keep_obs": ["a/b"]}}}, "keep_obs"),
        ({"models": {"base_nmf": {"display_name": "</script>"}}}, "display_name"),
        ({"models": {"base_nmf": {"display_name": "=1+1"}}}, "display_name"),
        ({"models": {"base_nmf": {"display_name": "a\u202eb"}}}, "display_name"),
        ({"datasets": {"d": {"path": "x", "keep_obs": ["a b", "a_b"]}}, "labels": ["a b", "a_b"]}, "labels"),
    ],
)
def test_slips_are_told_with_their_key(change, words):
    with pytest.raises(InputError) as caught:
        load_config(SMALLEST | change)
    assert words in caught.value.got


def test_a_password_is_refused_and_not_repeated():
    source = {"url": "https://me:secret@example.org/x.h5ad", "sha256": "0" * 64}
    with pytest.raises(InputError, match="netrc") as caught:
        load_config({"datasets": {"d": source}})
    assert "secret" not in str(caught.value)


def test_a_mac_alone_has_metal(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(InputError, match="device: mps"):
        load_config(SMALLEST | {"device": "mps"})
    monkeypatch.setattr(sys, "platform", "darwin")
    assert load_config(SMALLEST | {"device": "mps"}).device == "mps"


@pytest.mark.parametrize("name", ["orig.ident", "percent.mt", "Cell type", "Größe", "CD4+ (%)"])
def test_columns_are_called_as_files_call_them(name):
    source = {"path": "x", "keep_obs": [name], "condition_columns": [name]}
    config = load_config({"datasets": {"d": source}, "labels": ["cell_type", name]})
    assert set("".join(config.label_paths)) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
    )
    assert config.label_paths["cell_type"] == "cell_type"
    assert name in config.label_paths.values()


@pytest.mark.parametrize(
    ("text", "place", "got"),
    [
        (
            "datasets: {a: {}}\nranks: [1]\ndatasets: {b: {}}\n",
            "c.yaml",
            "'datasets' in line 1 and again in line 3",
        ),
        (
            "models:\n  ae_nmf: {tol: 1, tol: 2}\n",
            "c.yaml",
            "'models.ae_nmf.tol' in line 2 and again in line 2",
        ),
        ("comparisons:\n- {seeds_of: a, seeds_of: b}\n", "c.yaml", "comparisons.0.seeds_of"),
        ("ranks: [4\nseeds: [1]\n", "line 2", ""),
        ("ranks:\n\t- 4\n", "line 2", "\\t"),
        ("ranks: [4]\n---\nseeds: [1]\n", "line 3", "second"),
        ('{"ranks": [4], "ranks": [5]}', "c.yaml", "'ranks'"),
    ],
)
def test_a_config_file_is_read_as_it_was_written(tmp_path, text, place, got):
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        check_files([path])
    assert place in caught.value.thing
    assert got in caught.value.got


def test_sound_files_and_files_of_no_keys(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n", encoding="utf-8")
    (tmp_path / "good.yaml").write_text(
        "base: &base {tol: 1}\nmodels:\n  a: {<<: *base}\n  b: {<<: *base, tol: 2}\n", encoding="utf-8"
    )
    check_files([tmp_path / "empty.yaml", tmp_path / "good.yaml", tmp_path / "not there.yaml"])


def test_a_file_can_be_checked_without_snakemake(tmp_path, capsys, repository):
    assert main([str(repository / "config" / "demo.yaml")]) == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text("ranks: [1]\nranks: [2]\n", encoding="utf-8")
    assert main([str(bad)]) == 2
    assert "again in line 2" in capsys.readouterr().err


def test_fuzzed_configs():
    import fuzzing

    counted = fuzzing.config_trials(400, seed=0)
    assert counted["refused"] > 100
    assert counted["accepted"] > 20


def test_what_libraries_say_at_the_end_is_no_reason(tmp_path):
    from nmfbench.tables.files import reason_from_log

    log = tmp_path / "x.log"
    log.write_text(
        "a starts\na was stopped by SIGINT\na ends with exit code 75: x\ncache_misses: 0\n", encoding="utf-8"
    )
    assert reason_from_log(log) == "a was stopped by SIGINT"
