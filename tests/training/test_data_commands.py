import argparse
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lsvcr.errors import DataError
from tests.training.worlds import random_dataset
from training.data_commands import add_data_commands
from training.dataset_folder import load_dataset, write_dataset


@pytest.fixture
def call() -> Callable[..., int]:
    parser = argparse.ArgumentParser()
    add_data_commands(parser.add_subparsers(required=True))

    def run(*arguments: object) -> int:
        args = parser.parse_args([str(argument) for argument in arguments])
        return args.run(args)

    return run


SMALL = ("--videos", 40, "--comments", 60, "--users", 10)


def test_a_demo_world_can_be_made_checked_and_imported_as_own_data(call, tmp_path, capsys):
    assert call("data", "demo", *SMALL, "--out", tmp_path / "demo") == 0
    assert call("data", "check", tmp_path / "demo") == 0
    assert call("data", "import", "folder", tmp_path / "demo", "--out", tmp_path / "own") == 0
    assert load_dataset(tmp_path / "own").videos.equals(load_dataset(tmp_path / "demo").videos)
    assert "demo world, seed 0" in capsys.readouterr().out


def test_a_folder_that_is_there_is_replaced_only_when_asked(call, tmp_path):
    demo = ("data", "demo", *SMALL, "--out", tmp_path / "demo")
    assert call(*demo) == 0
    with pytest.raises(DataError, match="--force"):
        call(*demo)
    assert call(*demo, "--seed", 1, "--force") == 0


def test_a_refused_import_leaves_nothing_behind(call, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "videos.csv").write_text("video_id,title\nv1,\nv2,B\n")
    (source / "video_events.csv").write_text(
        "user_id,video_id,timestamp\na,v1,1700000000000\na,v2,1700000000000\n"
    )
    arguments = ("data", "import", "folder", source, "--out", tmp_path / "out")
    with pytest.raises(DataError, match=r"videos\.csv: row 1, column title: is empty"):
        call(*arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_skipped_rows_are_counted_and_listed(call, tmp_path, capsys):
    test_a_refused_import_leaves_nothing_behind(call, tmp_path)
    source = tmp_path / "source"
    assert call("data", "import", "folder", source, "--out", tmp_path / "o", "--skip-bad-rows") == 0
    printed = capsys.readouterr().out
    assert "left out 1 rows of videos.csv: title is empty" in printed
    assert "left out 1 rows of video_events.csv: video_id names an unknown video" in printed
    assert call("data", "check", source, "--skip-bad-rows") == 1


def test_an_option_of_another_source_is_refused(call, tmp_path):
    with pytest.raises(DataError, match="--long-view belongs to kuaicomt"):
        call("data", "import", "movielens", tmp_path, "--out", tmp_path / "out", "--long-view")


def test_the_example_of_the_documentation_is_a_dataset_folder(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    for name, content in re.findall(r"`(\w+\.csv)`\n\n```csv\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(content)
    assert load_dataset(tmp_path).counts() == {
        "videos": 3,
        "comments": 3,
        "video_events": 3,
        "comment_events": 2,
    }


def test_update_puts_newer_items_in_and_replaces_known_ones(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = random_dataset(0)
    write_dataset(before, tmp_path / "data")
    (tmp_path / "videos.csv").write_text("video_id,title\nv3,renamed\nnew,a new one\n")
    (tmp_path / "comments.csv").write_text("comment_id,video_id,text\nx,new,hm\ny,v1,well\n")
    for table in ("videos.csv", "comments.csv"):
        assert call("data", "update", tmp_path / "data", "--items", tmp_path / table) == 0
    assert "put in: 0 videos, 2 comments" in capsys.readouterr().out
    after = load_dataset(tmp_path / "data")
    titles = dict(after.videos.select("video_id", "title").iter_rows())
    known = dict(before.videos.select("video_id", "title").iter_rows())
    assert titles == known | {"v3": "renamed", "new": "a new one"}
    assert set(after.comments["comment_id"]) == {*before.comments["comment_id"], "x", "y"}
    assert after.video_events.equals(before.video_events)

    (tmp_path / "comments.csv").write_text("comment_id,video_id,text\nz,gone,hm\n")
    with pytest.raises(DataError, match=r"names an unknown video \(found 'gone'\)"):
        call("data", "update", tmp_path / "data", "--items", tmp_path / "comments.csv")
    assert load_dataset(tmp_path / "data").comments.equals(after.comments)
