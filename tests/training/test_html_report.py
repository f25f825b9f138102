from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.training.tiny_language_model import save_tiny_language_model
from tests.training.worlds import random_dataset
from training.__main__ import main
from training.compare import mean_intervals, read_users
from training.dataset_folder import load_dataset, write_dataset
from training.examples import read_examples
from training.html_report import bar_chart, line_chart
from training.run_folder import RunFolder

VOID = {"br", "meta", "path", "rect", "polyline"}


class Balance(HTMLParser):
    """Raises where a tag is closed that isn't the one open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("report")
    write_dataset(random_dataset(0), folder / "data")
    model = save_tiny_language_model(folder / "model")
    for name, more in (("first", []), ("second", ["--set", "model.profile_events=0"])):
        start = ["run", "--data", str(folder / "data"), "--out", str(folder / name)]
        settings = ["data.min_events=1", "fit.epochs=1", f"text.language_model={model}"]
        settings.append("fit.choose_encoder_factor=true")
        assignments = [part for setting in settings for part in ("--set", setting)]
        assert main([*start, "--preset", "tiny", *assignments, *more]) == 0
    return [folder / "first", folder / "second"]


def test_further_runs_are_named_by_what_they_change(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "both.html"
    assert main(["report", "--run", *map(str, runs), "--out", str(out)]) == 0
    page = out.read_text()
    assert "model.profile_events = 0" in page and "Which parts earned their place" in page
    assert "Which parts" not in (runs[0] / "report.html").read_text(), "one run has no other"
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert "<script" not in page and "src=" not in page


def test_the_page_tells_what_the_run_learned_from(runs: list[Path], tmp_path: Path) -> None:
    page = (runs[0] / "report.html").read_text()
    data = load_dataset(runs[0].parent / "data")
    assert f"{len(data.video_events):,} video events, " in page
    assert "users with 5 events or more" in page and "Few users have 5 events" in page
    assert "missed: rank" in page and "found: rank" in page
    elsewhere = runs[0].parent / "elsewhere"
    (runs[0].parent / "data").rename(elsewhere)
    try:
        out = tmp_path / "later.html"
        assert main(["report", "--run", str(runs[0]), "--out", str(out)]) == 0
    finally:
        elsewhere.rename(runs[0].parent / "data")
    assert "has moved or changed since" in out.read_text()


def test_the_page_tells_how_much_of_the_encoder_is_kept(runs: list[Path]) -> None:
    page = (runs[0] / "report.html").read_text()
    [line] = [line for line in RunFolder.open(runs[0]).read_log() if line["step"] == "fit"]
    for task, factor in line["encoder_factor"].items():
        told = f"For {task}s the encoder&#39;s part counts {factor:g} times"
        assert (told in page) == (factor != 1)


def test_examples_show_what_the_ranking_was(runs: list[Path]) -> None:
    for case in read_examples(runs[0])["video"]:
        place = case["recommended"].index(case["chosen"]) + 1 if case["rank"] <= 5 else None
        assert place is None or place <= case["rank"], "ties count against the model"
        assert case["rank"] <= case["among"]


def test_users_know_their_history_and_their_target(runs: list[Path]) -> None:
    users = read_users(runs[0])
    assert users["history"].min() >= 0 and users["target_events"].max() > 0
    (one,) = users.filter(task="video").group_by("user_id").agg("history").head(1)["history"]
    assert len(set(one)) == 1, "it doesn't depend on the system"


def test_intervals_hold_the_mean(runs: list[Path]) -> None:
    users = read_users(runs[0])
    for system, tasks in mean_intervals(runs[0]).items():
        for task, rankings in tasks.items():
            for ranking, metrics in rankings.items():
                some = users.filter(system=system, task=task, ranking=ranking)
                for metric, (low, high) in metrics.items():
                    assert low <= some[metric].mean() + 1e-9 and some[metric].mean() <= high + 1e-9


def test_charts_of_nothing_and_of_zeros_are_drawn() -> None:
    assert line_chart({}).startswith("<svg")
    assert "nan" not in line_chart({"loss": [0.0]}) + bar_chart({"0": {"model": (0.0, 0.0, 1)}})
    assert "&lt;b&gt;" in bar_chart({"<b>": {"<b>": (float(np.float64(1)), 0.1, 2)}})
