"""Configurations of a sweep: how they are generated, checked, named and ranked."""

import io
import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pipeline import Pipeline, create
from rich.console import Console
from scipy import stats

from cxr.cli import main, sweep_table
from cxr.errors import CxrError
from cxr.lineage.snapshot import Packed
from cxr.sweep.experiment import reason
from cxr.sweep.plan import Experiment, Place, Plan, make
from cxr.sweep.ranking import Outcome, over_seeds, table
from cxr.sweep.runner import Running, State
from cxr.sweep.space import Range, grid, parse, random

LOG_RANGE = ["train.cnn.lr=log:1e-4..1e-2"]


# The space


def test_a_grid_has_every_combination_and_the_last_parameter_changes_fastest() -> None:
    configurations = grid(parse(["train.cnn.lr=1e-3,2e-3", "train.cnn.dropout=0.1,0.2,0.3"]))
    pairs = [(0.001, 0.1), (0.001, 0.2), (0.001, 0.3), (0.002, 0.1), (0.002, 0.2), (0.002, 0.3)]
    assert [tuple(each.values()) for each in configurations] == pairs
    assert {tuple(each) for each in configurations} == {("train.cnn.lr", "train.cnn.dropout")}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("1e-3,2", [0.001, 2]),
        ("true,no", [True, "no"]),  # YAML 1.2, as DVC reads params.yaml
        ("imagenet,none,null", ["imagenet", "none", None]),
        ("[8,16,32],[16,32,64]", [[8, 16, 32], [16, 32, 64]]),
        ("../weights.safetensors", ["../weights.safetensors"]),
        ("'a,b', \"c\"", ["a,b", "c"]),
    ],
)
def test_choices_are_written_as_in_params_yaml(values: str, expected: list[Any]) -> None:
    parsed = [each["k"] for each in grid(parse([f"k={values}"]))]
    assert parsed == expected
    assert [type(each) for each in parsed] == [type(each) for each in expected]


def test_samples_repeat_with_their_seed_and_a_larger_number_keeps_the_first() -> None:
    space = parse([*LOG_RANGE, "train.cnn.dropout=0.1..0.5", "train.vit.depth=2..8", "k=a,b"])
    eight = random(space, 8, seed=3)
    assert eight == random(space, 8, seed=3)
    assert random(space, 20, seed=3)[:8] == eight
    assert random(space, 8, seed=4) != eight


@pytest.mark.parametrize("text", ["0.1..0.5", "log:1e-4..1e-2", "log:0.12341..0.12376", "3..4"])
def test_samples_stay_within_their_range(text: str) -> None:
    values = parse([f"k={text}"])["k"]
    assert isinstance(values, Range)
    rng = np.random.default_rng(0)
    drawn = [values.draw(rng) for _ in range(2000)]
    assert min(drawn) >= values.low
    assert max(drawn) <= values.high
    assert len(set(drawn)) > 1


def test_samples_of_a_log_range_are_uniform_in_the_logarithm() -> None:
    """By a Kolmogorov-Smirnov test, which samples of a plain range fail."""
    drawn = [each["train.cnn.lr"] for each in random(parse(LOG_RANGE), 900, seed=0)]
    plain = [each["k"] for each in random(parse(["k=1e-4..1e-2"]), 900, seed=0)]
    law = stats.loguniform(1e-4, 1e-2).cdf
    assert stats.kstest(drawn, law).pvalue > 0.01
    assert stats.kstest(plain, law).pvalue < 1e-9
    assert stats.kstest(plain, stats.uniform(1e-4, 1e-2 - 1e-4).cdf).pvalue > 0.01


@pytest.mark.parametrize("log", [False, True])
def test_integers_are_sampled_with_the_expected_frequencies(log: bool) -> None:
    """Uniform, or for a log range in proportion to log((k + 1) / k)."""
    values, rng = Range(2, 8, log), np.random.default_rng(0)
    drawn = [values.draw(rng) for _ in range(5000)]
    assert {type(each) for each in drawn} == {int}
    weights = [math.log((k + 1) / k) if log else 1.0 for k in range(2, 9)]
    expected = np.array(weights) / sum(weights) * len(drawn)
    observed = [drawn.count(k) for k in range(2, 9)]
    assert stats.chisquare(observed, expected).pvalue > 0.01


def test_every_configuration_of_a_small_space_can_be_sampled_once() -> None:
    space = parse(["a=1..3", "b=x,y"])
    drawn = [tuple(each.values()) for each in random(space, 6, seed=0)]
    assert sorted(drawn) == sorted(itertools.product([1, 2, 3], "xy"))


@pytest.mark.parametrize(
    ("assignments", "error"),
    [
        ([], "nothing to compare"),
        (["train.cnn.lr"], "is not KEY=VALUES"),
        (["=1"], "is not KEY=VALUES"),
        (["k="], "neither a list of choices"),
        (["k=1,,2"], "neither a list of choices"),
        (["k=[1"], "neither a list of choices"),
        (["k=/x/a[1].pt"], "special characters in quotes"),
        (["k=1],[2"], "neither a list of choices"),
        (["k={a: 1}"], "neither a list of choices"),
        (["k=1", "k=2"], "given twice"),
        (["k=0.5..0.1"], "empty range"),
        (["k=2..2"], "empty range"),
        (["k=log:0..1"], "must start above 0"),
        (["k=log:-1..1"], "must start above 0"),
        (["k=log:1,2"], "nor a range"),
    ],
)
def test_an_invalid_space_is_refused(assignments: list[str], error: str) -> None:
    with pytest.raises(CxrError, match=error):
        parse(assignments)


def test_equal_choices_count_once() -> None:
    assert grid(parse(["k=1e-3,2,0.001,2.0"])) == [{"k": 0.001}, {"k": 2}]


def test_a_grid_refuses_ranges_and_too_many_configurations() -> None:
    with pytest.raises(CxrError, match="is a range, but a grid needs choices"):
        grid(parse(LOG_RANGE))
    with pytest.raises(
        CxrError, match="the grid has 1,600 configurations; at most 1,000 are allowed"
    ):
        grid(parse([f"a={','.join(map(str, range(40)))}", f"b={','.join(map(str, range(40)))}"]))


def test_more_samples_than_configurations_are_refused() -> None:
    with pytest.raises(CxrError, match=r"--random is 7, but .* have only about 6 different"):
        random(parse(["a=1..3", "b=x,y"]), 7, seed=0)


def test_the_live_table_shows_what_runs_where_what_failed_and_the_best_so_far() -> None:
    plan = plan_with(lrs(3), 2)
    *_, running_one, failed_one = plan.experiments
    done = outcomes_of([[0.7, 0.71], [0.8, 0.81]])
    slot: Any = SimpleNamespace(place="server-1 2")
    running = {Future[Packed](): Running(running_one, slot, time.monotonic() - 75)}
    failed = {failed_one.name: "the loss\x1b[2J is NaN"}
    screen = Console(width=80, record=True, file=io.StringIO())
    screen.print(sweep_table.progress_of(State(plan, done, failed, running, 600.0)))
    lines = screen.export_text().splitlines()
    assert lines[1].split() == ["s-2-s0", "train.cnn.lr=0.003", "0", "server-1", "2", "75", "s"]
    assert lines[2:] == [
        "5 of 6 ended, 1 failed, about 10 min left",
        "s-2-s1 failed: the loss\\x1b[2J is NaN",
        "best cnn so far: 0.8050, train.cnn.lr=0.002",
    ]


# The plan


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create(tmp_path_factory.mktemp("project")).folder


@pytest.fixture
def run_cxr(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the `cxr` command in this process, in the project; returns its exit status."""

    def call(*arguments: str) -> int:
        monkeypatch.chdir(project)
        monkeypatch.setattr(sys, "argv", ["cxr", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return call


def plan_of(root: Path, *assignments: str, n_seeds: int = 2, jobs: int = 1) -> Plan:
    return make(root, "s", grid(parse(list(assignments))), n_seeds, Place(jobs=jobs))


def names(plan: Plan) -> list[str]:
    return [each.name for each in plan.experiments]


def test_every_configuration_uses_the_same_seeds_starting_at_the_one_in_params_yaml(
    project: Path, tmp_path: Path
) -> None:
    clone = Pipeline(project).copy(tmp_path / "p")
    clone.change(seed=5)
    plan = plan_of(clone.folder, "train.cnn.lr=1e-3,2e-3", n_seeds=3)
    assert plan.seeds == [5, 6, 7]
    assert [(each.configuration["train.cnn.lr"], each.seed) for each in plan.experiments] == [
        (lr, seed) for lr in (0.001, 0.002) for seed in (5, 6, 7)
    ]
    first = plan.experiments[0]
    assert first.params == {"train.cnn.lr": 0.001, "threads": 1, "seed": 5}
    assert len(set(names(plan))) == 6


def test_names_change_only_with_what_affects_the_result(project: Path, tmp_path: Path) -> None:
    clone = Pipeline(project).copy(tmp_path / "p")
    lr = "train.cnn.lr=1e-3,2e-3"
    before = names(plan_of(clone.folder, lr))
    assert names(plan_of(clone.folder, lr)) == before
    assert names(plan_of(clone.folder, "train.cnn.lr=1e-3,4e-3,2e-3"))[:2] == before[:2]

    with open(clone.folder / "src/cxr/cli/printing.py", "a") as reporting:
        reporting.write("# reporting only\n")
    assert names(plan_of(clone.folder, lr)) == before

    clone.change(train__protocol__epochs=3)
    changed = names(plan_of(clone.folder, lr))
    assert not set(changed) & set(before)
    with open(clone.folder / "src/cxr/training/loop.py", "a") as training:
        training.write("# affects the result\n")
    assert not set(names(plan_of(clone.folder, lr))) & set(changed)


@pytest.mark.parametrize(
    ("cores", "place", "threads"),
    [
        (2, Place(jobs=2), 1),
        (2, Place(jobs=1), 2),
        (2, Place(), 1),
        (16, Place(jobs=2), 2),
        (2, Place(jobs=8), 1),
        (1, Place(jobs=2), 1),
        (16, Place(cpus=4), 4),
        (1, Place(on="10.0.0.1:6379"), 2),
        (1, Place(on="auto", cpus=8), 8),
    ],
)
def test_experiments_have_the_threads_of_params_yaml_unless_they_share_cores_or_cpus_says(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, place: Place,
    threads: int,
) -> None:  # fmt: skip
    clone = Pipeline(project).copy(tmp_path / "p")
    clone.change(threads=2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    plan = make(clone.folder, "s", grid(parse(["train.cnn.lr=1e-3"])), 1, place)
    assert plan.threads == threads
    assert {each.params["threads"] for each in plan.experiments} == {threads}


@pytest.mark.parametrize(
    ("assignment", "models"),
    [
        ("train.cnn.lr=1e-3,2e-3", ["cnn"]),
        ("train.vit.augment.translate=0.0,0.1", ["vit"]),
        ("train.protocol.epochs=1,2", ["cnn", "squeezenet", "vit"]),
    ],
)
def test_only_models_that_a_parameter_affects_are_compared(
    project: Path, assignment: str, models: list[str]
) -> None:
    assert plan_of(project, assignment, "train.squeezenet.lr=1e-3").models == models


@pytest.mark.parametrize(
    ("assignment", "error"),
    [
        ("train.cnn.dropot=0.1", "-S train.cnn.dropot is not a known key; did you mean `dropout`?"),
        ("train.protocol.epoch=1", "did you mean `epochs`?"),
        ("train.cnn.lr=1e-3,-1", "-S train.cnn.lr is -1; expected a number greater than 0"),
        ("train.cnn.lr=fast", "-S train.cnn.lr is 'fast'; expected a valid number"),
        (
            "train.cnn.dropout=0.5,1.0",
            "-S train.cnn.dropout is 1.0; expected a number less than 1",
        ),
        ("train.vit.heads=4,3", "heads (3) must divide width (64)"),
        ("train.squeezenet.augment.translate=0.1", "freeze: true computes the features once"),
        ("train.resnet.lr=1e-3", "-S train.resnet.lr has no section train.resnet"),
        ("train.cnn.lr.x=1", "-S train.cnn.lr.x has no section train.cnn.lr"),
        ("train.cnn.augment=1", "-S train.cnn.augment is 1; expected a section"),
        ("seed=1,2", "--seeds N sets the seeds"),
        ("threads=1,2", "compares only parameters below `train.`"),
        ("download.size=28,64", "compares only parameters below `train.`"),
        ("evaluate.threshold_rule=f1,youden", "compares only parameters below `train.`"),
    ],
)
def test_an_invalid_configuration_is_refused(project: Path, assignment: str, error: str) -> None:
    with pytest.raises(CxrError) as caught:
        plan_of(project, assignment)
    assert error in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "a" * 41, "ä", "a\n"])
def test_a_name_that_git_or_a_shell_cannot_handle_is_refused(project: Path, name: str) -> None:
    with pytest.raises(CxrError, match="--name"):
        make(project, name, grid(parse(["train.cnn.lr=1e-3"])), 1, Place())


def test_a_missing_repository_or_commit_is_reported(project: Path, tmp_path: Path) -> None:
    clone = Pipeline(project).copy(tmp_path / "p")
    clone.git("update-ref", "-d", "HEAD")
    with pytest.raises(CxrError, match="has no commit yet"):
        plan_of(clone.folder, "train.cnn.lr=1e-3")
    (clone.folder / ".git").rename(clone.folder / "git")
    with pytest.raises(CxrError, match="is not a git repository"):
        plan_of(clone.folder, "train.cnn.lr=1e-3")


def test_the_command_reports_an_error_in_one_line_and_runs_nothing(
    project: Path, run_cxr: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cxr("sweep", "-S", "train.cnn.lr=1e-3,-1") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("cxr: -S train.cnn.lr is -1; expected ")
    assert len(printed.err.splitlines()) == 1
    assert not (project / ".dvc/tmp").exists()


def test_a_dry_run_shows_what_would_run_and_runs_nothing(
    project: Path, run_cxr: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["sweep", "-S", "train.cnn.lr=1e-3,2e-3", "--dry-run"]
    assert run_cxr(*call) == 0
    shown = capsys.readouterr().out.splitlines()
    assert run_cxr(*call, "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert [each["configuration"] for each in plan["experiments"]] == [
        {"train.cnn.lr": lr} for lr in (0.001, 0.001, 0.002, 0.002)
    ]
    for line, each in zip(shown[1:5], plan["experiments"], strict=True):
        expected = [str(each["configuration"]["train.cnn.lr"]), str(each["seed"]), each["name"]]
        assert line.split() == [*expected, "to", "run"]
    assert "2 configurations, seeds 0 to 1: 4 experiments, 0 of them done" in shown[5]
    assert not (project / ".dvc/tmp").exists()


def test_without_the_extra_a_cluster_is_refused_with_how_to_install_it(
    project: Path, run_cxr: Callable[..., int], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", None)  # an import then fails
    monkeypatch.delitem(sys.modules, "cxr.sweep.cluster", raising=False)
    assert run_cxr("sweep", "-S", "train.cnn.lr=1e-3", "--on", "10.0.0.1:6379") == 2
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1] == (
        "cxr: --on needs Ray, which is not installed; run `make cluster` here and on every node"
    )
    assert len(printed) == 1


def test_a_sweep_on_this_machine_imports_no_ray(project: Path) -> None:
    call = ["sweep", "-S", "train.cnn.lr=1e-3", "--dry-run"]
    code = f"import sys; sys.argv = ['cxr', *{call}]\nfrom cxr.cli import main\ntry:\n    main()\n"
    code += "except SystemExit:\n    print('ray' in sys.modules, 'torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].startswith("False")


# A log


LOG = """Reproducing experiment 's-1'
Running stage 'download':
> PYTHONPATH=src python stages/download.py
download: PHANTOM
Running stage 'train-cnn':
> PYTHONPATH=src python stages/train.py cnn
train-cnn: epoch  1/2  loss 0.5
train-cnn: the loss is NaN; lower the learning rate
ERROR: failed to reproduce 'train-cnn': failed to run: python stages/train.py cnn, exited with 2
"""


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (LOG, "train-cnn: the loss is NaN; lower the learning rate"),
        ("a\nERROR: unexpected error - No space\n", "unexpected error - No space"),
        ("Killed\n", "Killed"),
        ("", "its log is empty"),
    ],
)  # fmt: skip
def test_the_reason_of_a_failure_is_the_stages_own_message(log: str, expected: str) -> None:
    assert reason(log) == expected


# The table


def plan_with(configurations: list[dict[str, Any]], n_seeds: int) -> Plan:
    experiments = [
        Experiment(f"s-{i}-s{seed}", configuration, seed, {}, "evaluate")
        for i, configuration in enumerate(configurations)
        for seed in range(n_seeds)
    ]
    return Plan("s", configurations, list(range(n_seeds)), 1, 1, Place(), experiments)


def outcomes_of(vals: list[list[float | None]], model: str = "cnn") -> dict[str, Any]:
    """Outcomes of given validation AUROCs; the test AUROC is best where validation is worst."""
    return {
        f"s-{i}-s{seed}": {model: Outcome(val, 1 - val, (0.9 - val, 1 - val + 0.05))}
        for i, of_seeds in enumerate(vals)
        for seed, val in enumerate(of_seeds)
        if val is not None
    }


def lrs(n: int) -> list[dict[str, Any]]:
    return [{"train.cnn.lr": (i + 1) / 1000} for i in range(n)]


VALS: list[list[float | None]] = [
    [0.700, 0.710, 0.690], [0.740, 0.731, 0.745], [0.735, 0.730, 0.737]
]  # fmt: skip


def test_statistics_over_seeds_agree_with_scipy() -> None:
    for values in VALS:
        statistics = over_seeds([value for value in values if value is not None])
        assert statistics.n == 3
        assert statistics.mean == pytest.approx(np.mean(values))
        assert statistics.sd == pytest.approx(np.std(values, ddof=1))
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert statistics.ci == pytest.approx(tuple(expected))


def test_the_interval_of_two_seeds_is_as_computed_by_hand_and_one_seed_has_none() -> None:
    """Student's t with one degree of freedom is 12.7062; the standard error is half the gap."""
    assert over_seeds([0.70, 0.71]).ci == pytest.approx((0.705 - 0.0635310, 0.705 + 0.0635310))
    assert over_seeds([0.9, 1.0]).ci == pytest.approx((0.95 - 0.635310, 1.0))  # no AUROC above 1
    one = over_seeds([0.7])
    assert (one.n, one.mean, one.sd, one.ci) == (1, 0.7, None, None)


def test_the_best_is_chosen_by_validation_even_if_test_disagrees() -> None:
    ranking = table(plan_with(lrs(3), 3), outcomes_of(VALS))
    assert [row.params["train.cnn.lr"] for row in ranking.rows] == [0.002, 0.003, 0.001]
    (best,) = ranking.best
    assert best.row.params == {"train.cnn.lr": 0.002}
    assert best.experiment == "s-1-s0"
    tests = [row.test for row in ranking.rows]
    assert tests == sorted(tests)  # the chosen one is worst on test
    assert best.row.test == pytest.approx(1 - np.mean(VALS[1]))
    low, high = best.row.test_ci
    assert (low, high) == pytest.approx((0.9 - np.mean(VALS[1]), 1.05 - np.mean(VALS[1])))


def test_the_difference_to_the_second_is_paired_by_seed() -> None:
    (best,) = table(plan_with(lrs(3), 3), outcomes_of(VALS)).best
    assert best.difference == pytest.approx(np.mean(VALS[1]) - np.mean(VALS[2]))
    expected = stats.ttest_rel(VALS[1], VALS[2]).confidence_interval(0.95)
    assert best.ci == pytest.approx(tuple(expected))
    pooled = np.sqrt((np.var(VALS[1], ddof=1) + np.var(VALS[2], ddof=1)) / 2)
    assert best.spread == pytest.approx(pooled)


@pytest.mark.parametrize(
    ("vals", "doubt"),
    [
        ([[0.70, 0.72], [0.705, 0.725]], "not more than the standard deviation over seeds"),
        ([[0.70, 0.70], [0.71, 0.75]], "the interval includes 0"),
        ([[0.70, 0.701, 0.702], [0.75, 0.751, 0.752]], None),
        ([[0.70], [0.75]], "a single seed cannot separate a difference from chance"),
        ([[0.70, 0.72], [0.70, 0.72]], "not more than the standard deviation over seeds"),
    ],
)
def test_a_difference_within_the_variation_over_seeds_is_reported_as_doubtful(
    vals: list[list[float]], doubt: str | None
) -> None:
    (best,) = table(plan_with(lrs(2), len(vals[0])), outcomes_of(vals)).best  # type: ignore[arg-type]
    assert (best.doubt or "").startswith(doubt or "") == (doubt is not None or best.doubt is None)


def test_a_tie_is_won_by_the_first_configuration() -> None:
    (best,) = table(plan_with(lrs(3), 2), outcomes_of([[0.7, 0.7], [0.8, 0.8], [0.8, 0.8]])).best
    assert best.row.params == {"train.cnn.lr": 0.002}
    assert best.difference == 0


def test_a_configuration_without_all_seeds_is_listed_last_and_not_chosen() -> None:
    ranking = table(plan_with(lrs(3), 2), outcomes_of([[0.7, 0.7], [0.9, None], [None, None]]))
    assert [row.done for row in ranking.rows] == [2, 1, 0]
    (best,) = ranking.best
    assert best.row.params == {"train.cnn.lr": 0.001}
    assert best.second is None
    assert table(plan_with(lrs(1), 2), outcomes_of([[0.9, None]])).best == []


def test_each_model_is_ranked_by_its_own_parameters() -> None:
    """In a grid over two models, parameters of the other model are ignored."""
    grid_of_two = [
        {"train.cnn.lr": a, "train.vit.lr": b} for a in (0.1, 0.2) for b in (0.3, 0.4, 0.5)
    ]
    outcomes = {
        f"s-{i}-s{seed}": {
            "cnn": Outcome(0.6 + each["train.cnn.lr"], 0.5, None),
            "vit": Outcome(1 - each["train.vit.lr"], 0.5, None),
        }
        for i, each in enumerate(grid_of_two)
        for seed in (0, 1)
    }
    ranking = table(plan_with(grid_of_two, 2), outcomes)
    assert [(row.model, *row.params.items()) for row in ranking.rows] == [
        ("cnn", ("train.cnn.lr", 0.2)),
        ("cnn", ("train.cnn.lr", 0.1)),
        ("vit", ("train.vit.lr", 0.3)),
        ("vit", ("train.vit.lr", 0.4)),
        ("vit", ("train.vit.lr", 0.5)),
    ]
    assert [best.experiment for best in ranking.best] == ["s-3-s0", "s-0-s0"]
