import csv
import gzip
import io
from pathlib import Path

import polars as pl
import pytest

from lsvcr.errors import DataError
from training.importers.gatherer import import_gatherer
from training.importers.kuaicomt import import_kuaicomt
from training.importers.movielens import import_movielens

T = 1_300_000_000_000


def write_csv(path: Path, header: str, *rows: tuple[object, ...]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([header.split(","), *rows])
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def gatherer(tmp_path):
    write_csv(
        tmp_path / "videos.csv.gz",
        "video_id,title,category,first_set_date,printings",
        (10, "Ankh", "LEA", "1993-08-05", "LEA:10"),
        (20, "Bolt", "", "", "?:20"),
    )
    write_csv(
        tmp_path / "comments.csv.gz",
        "comment_id,video_id,printing_id,author_id,timestamp,text,vote_count,vote_sum,mean_vote,"
        "reply_to_comment_id,source",
        (1, 10, 10, 7, T, "good card", 2, 9, 4.5, "", "dump"),
        (2, 10, 10, 8, T + 1, "@Seven no", "", "", 7.5, 1, "wayback"),
        (3, 10, 10, 9, T + 2, " ", 0, 0, "", "", "dump"),
        (4, 20, 20, 7, T + 3, "[autocard]Ankh[/autocard]\nis better", "", "", "", "", "wayback"),
        (5, 10, 10, 7, T + 4, "@Nine what?", 0, 0, "", 3, "dump"),
    )
    write_csv(
        tmp_path / "interactions.csv.gz",
        "user_id,video_id,timestamp",
        (7, 10, T),
        (8, 10, T + 1),
        (9, 10, T + 2),
        (7, 20, T + 3),
    )
    return tmp_path


def test_a_written_comment_and_a_reply_are_comment_events(gatherer):
    dataset = import_gatherer(gatherer, replies=True)
    assert sorted(dataset.comment_events.rows()) == [
        ("7", "1", T, "comment_write"),
        ("7", "4", T + 3, "comment_write"),
        ("7", "5", T + 4, "comment_write"),
        ("8", "1", T + 1, "comment_reply"),
        ("8", "2", T + 1, "comment_write"),
    ]
    assert dataset.video_events.row(3) == ("7", "20", T + 3, "video_like", None)
    assert dataset.time_unit == "ms"


def test_replies_are_left_out_unless_asked_for(gatherer):
    types = import_gatherer(gatherer).comment_events["type"].unique().to_list()
    assert types == ["comment_write"]


def test_votes_become_likes_and_days_become_milliseconds(gatherer):
    dataset = import_gatherer(gatherer)
    assert dict(dataset.comments.select("comment_id", "likes").iter_rows()) == {
        "1": 9,
        "2": 8,  # one vote of 7.5, rounded half to even
        "4": None,
        "5": 0,
    }
    assert dataset.videos["published_at"].to_list() == [744_508_800_000, None]
    assert dataset.videos["category"].to_list() == ["LEA", None]


def test_comments_without_text_are_left_out_and_listed(gatherer):
    skipped = import_gatherer(gatherer).skipped
    assert skipped.drop("file").rows() == [(3, "text", None, "is empty")]
    assert skipped["file"][0].endswith("comments.csv.gz")


def test_a_wrong_day_is_refused_with_its_row(gatherer):
    header = "video_id,title,category,first_set_date,printings"
    write_csv(gatherer / "videos.csv.gz", header, (10, "Ankh", "LEA", "1993-13-05", ""))
    with pytest.raises(DataError, match=r"row 1, column published_at.*found '1993-13-05'"):
        import_gatherer(gatherer)


def test_a_source_that_is_not_there_is_refused(tmp_path):
    for importer in (import_gatherer, import_movielens, import_kuaicomt):
        with pytest.raises(DataError, match="no such"):
            importer(tmp_path / "nowhere")


def test_positions_of_films_become_timestamps(tmp_path):
    header = "video_id,title,category"
    write_csv(tmp_path / "videos.csv.gz", header, (1, "Toy Story (1995)", "Animation|Comedy"))
    header = "user_id,video_id,position"
    write_csv(tmp_path / "interactions.csv.gz", header, (5, 1, 0), (6, 1, 0))
    dataset = import_movielens(tmp_path)
    assert dataset.time_unit == "position"
    assert dataset.video_events["timestamp"].to_list() == [0, 0]
    assert dataset.videos.row(0) == ("1", "Toy Story (1995)", "Animation|Comedy", None, None)
    assert len(dataset.comments) == len(dataset.comment_events) == 0


MS = 1_697_000_000_123
SECONDS = 1_697_000_100


@pytest.fixture
def kuaicomt(tmp_path):
    """v3 is an advertisement, v4 has no caption, c5 no text."""
    write_csv(
        tmp_path / "video_features.csv",
        "video_id,author_id,video_type,upload_dt,caption,duration,category",
        ("v1", "a1", "NORMAL", "2023-10-01", "first <tag>", 9000, "pets"),
        ("v2", "a1", "NORMAL", "2023-10-02", "second", 9000, ""),
        ("v3", "a2", "AD", "2023-10-02", "buy this", 9000, "ads"),
        ("v4", "a2", "NORMAL", "2023-10-03", "", 9000, "pets"),
    )
    write_csv(
        tmp_path / "comment_features.csv",
        "comment_id,comment_content,video_id,comment_like_cnt,comment_reply_out,"
        "show_comment_cnt_td",
        ("c1", "so [smile] cute", "v1", 12, 1, 90),
        ("c2", "me too", "v1", 0, 0, 4),
        ("c3", "spam", "v3", 5, 0, 4),
        ("c4", "where?", "v4", 5, 0, 4),
        ("c5", "", "v2", 5, 0, 4),
    )
    write_csv(
        tmp_path / "user_video_inter.csv",
        "user_id,video_id,p_hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,"
        "is_collect,is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,"
        "comment_stay_time",
        ("u1", "v1", 1015, MS, 1, 1, 0, 0, 0, 0, 0, 1, 8000, 9000, 0, 0),
        ("u1", "v2", 1016, MS + 1, 1, 0, 0, 0, 0, 0, 0, 1, 7000, 9000, 0, 0),
        ("u2", "v2", 1016, MS + 2, 1, 0, 0, 0, 0, 0, 0, 0, 100, 9000, 0, 0),
        ("u2", "v3", 1016, MS + 3, 1, 1, 0, 0, 0, 0, 0, 1, 100, 9000, 0, 0),
        ("u2", "v4", 1016, MS + 4, 1, 1, 0, 0, 0, 0, 0, 1, 100, 9000, 0, 0),
    )
    write_csv(
        tmp_path / "user_comment_inter.csv",
        "user_id,comment_id,time_stamp,photo_id,is_like,is_reply",
        ("u1", "c1", SECONDS, "v1", 1, 1),
        ("u1", "c2", SECONDS + 1, "v1", 0, 1),
        ("u2", "c2", SECONDS + 2, "v1", 0, 0),
        ("u2", "c3", SECONDS + 3, "v3", 1, 0),
        ("u2", "c4", SECONDS + 4, "v4", 1, 0),
        ("u2", "c5", SECONDS + 5, "v2", 1, 0),
    )
    return tmp_path


def test_likes_on_videos_and_comments_are_the_events(kuaicomt):
    dataset = import_kuaicomt(kuaicomt)
    assert dataset.video_events.rows() == [("u1", "v1", MS, "video_like", 8000)]
    assert dataset.comment_events.rows() == [
        ("u1", "c1", SECONDS * 1000, "comment_like"),
        ("u1", "c2", (SECONDS + 1) * 1000, "comment_reply"),
    ]
    assert dataset.videos.rows() == [
        ("v1", "first <tag>", "pets", "a1", 1_696_118_400_000),
        ("v2", "second", None, "a1", 1_696_204_800_000),
    ]
    assert dataset.comments.select("comment_id", "likes").rows() == [("c1", 12), ("c2", 0)]


def test_advertisements_go_in_silence_and_textless_rows_are_listed(kuaicomt):
    skipped = import_kuaicomt(kuaicomt).skipped
    assert skipped.select("row", "column").rows() == [(4, "title"), (5, "text")]


def test_videos_watched_long_count_when_asked_for(kuaicomt):
    events = import_kuaicomt(kuaicomt, long_view=True).video_events
    assert events.select("video_id", "type").rows() == [
        ("v1", "video_like"),
        ("v2", "video_watch"),
    ]


def test_milliseconds_where_seconds_belong_are_refused_with_their_row(kuaicomt):
    header = "user_id,comment_id,time_stamp,photo_id,is_like,is_reply"
    rows = [("u1", "c2", SECONDS, "v1", 0, 0), ("u1", "c1", MS, "v1", 1, 0)]
    write_csv(kuaicomt / "user_comment_inter.csv", header, *rows)
    with pytest.raises(DataError, match=r"user_comment_inter\.csv: row 2, column timestamp"):
        import_kuaicomt(kuaicomt)


def test_events_on_videos_the_publishers_removed_are_skipped_when_asked(kuaicomt):
    path = kuaicomt / "user_video_inter.csv"
    pl.read_csv(path, infer_schema=False).with_columns(
        pl.col("video_id").replace("v4", "v5")
    ).write_csv(path)
    with pytest.raises(DataError, match="row 5, column video_id: names an unknown video"):
        import_kuaicomt(kuaicomt)
    skipped = import_kuaicomt(kuaicomt, skip_bad_rows=True).skipped
    assert skipped.select("row", "value").rows()[-1] == (5, "v5")


@pytest.mark.parametrize("column", ["is_like", "photo_id", "time_stamp"])
def test_a_column_missing_from_a_long_file_is_named(kuaicomt, column):
    path = kuaicomt / "user_comment_inter.csv"
    pl.read_csv(path).drop(column).write_csv(path)
    with pytest.raises(DataError, match=rf"user_comment_inter\.csv: column {column} is missing"):
        import_kuaicomt(kuaicomt)
