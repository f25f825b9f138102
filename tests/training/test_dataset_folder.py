import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from lsvcr.errors import DataError
from training.dataset_folder import fingerprint, load_dataset, sample_users, write_dataset

T = 1_700_000_000_000

TABLES = {
    "videos": "video_id,title,category\nv1,First,fun\nv2,Second,\nv3,Third,fun\n",
    "comments": 'comment_id,video_id,text,likes\nc1,v1,nice,3\nc2,v1,"two\nlines",0\nc3,v2,ok,\n',
    "video_events": f"user_id,video_id,timestamp\na,v1,{T}\na,v2,{T + 1}\nb,v1,{T + 2}\n",
    "comment_events": f"user_id,comment_id,timestamp,type\na,c1,{T},comment_write\nb,c3,{T},\n",
}


def write_tables(folder: Path, **changed: str | bytes | None) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in {**TABLES, **changed}.items():
        if content is not None:
            content = content.encode() if isinstance(content, str) else content
            (folder / f"{name}.csv").write_bytes(content)
    return folder


def test_optional_columns_are_filled_and_types_fixed(tmp_path):
    dataset = load_dataset(write_tables(tmp_path))
    assert dataset.videos.rows() == [
        ("v1", "First", "fun", None, None),
        ("v2", "Second", None, None, None),
        ("v3", "Third", "fun", None, None),
    ]
    assert dataset.comments.row(1) == ("c2", "v1", "two\nlines", None, None, 0)
    assert dataset.comments["likes"].to_list() == [3, 0, None]
    assert dataset.comments.schema["created_at"] == dataset.comments.schema["likes"] == pl.Int64
    assert dataset.video_events["type"].to_list() == ["video_like"] * 3
    assert dataset.comment_events["type"].to_list() == ["comment_write", "comment_like"]
    assert (dataset.time_unit, len(dataset.skipped)) == ("ms", 0)


def test_csv_gzip_and_parquet_give_the_same_data_set(tmp_path):
    plain = load_dataset(write_tables(tmp_path / "plain"))
    packed = tmp_path / "packed"
    packed.mkdir()
    for name, content in TABLES.items():
        (packed / f"{name}.csv.gz").write_bytes(gzip.compress(content.encode()))
    write_dataset(plain, tmp_path / "parquet")
    for folder in (packed, tmp_path / "parquet"):
        again = load_dataset(folder)
        for name in TABLES:
            assert getattr(again, name).equals(getattr(plain, name))


def test_numeric_ids_in_parquet_become_text(tmp_path):
    write_tables(tmp_path, videos=None, comments=None, video_events=None, comment_events=None)
    pl.DataFrame({"video_id": [7], "title": ["x"]}).write_parquet(tmp_path / "videos.parquet")
    events = pl.DataFrame({"user_id": [1], "video_id": [7], "timestamp": [T]})
    events.write_parquet(tmp_path / "video_events.parquet")
    assert load_dataset(tmp_path).video_events.row(0) == ("1", "7", T, "video_like", None)


def test_a_data_set_without_comments_has_empty_frames(tmp_path):
    dataset = load_dataset(write_tables(tmp_path, comments=None, comment_events=None))
    assert dataset.counts() == {
        "videos": 3,
        "comments": 0,
        "video_events": 3,
        "comment_events": 0,
    }
    assert dataset.comments.columns == [
        "comment_id",
        "video_id",
        "text",
        "author_id",
        "created_at",
        "likes",
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    videos = b"\xef\xbb\xbf" + TABLES["videos"].encode()
    assert load_dataset(write_tables(tmp_path, videos=videos)).videos["video_id"][0] == "v1"


def test_positions_are_accepted_as_timestamps_where_the_folder_says_so(tmp_path):
    write_tables(tmp_path, video_events="user_id,video_id,timestamp\na,v1,0\na,v2,1\n")
    (tmp_path / "comment_events.csv").unlink()
    with pytest.raises(DataError, match="looks like seconds"):
        load_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text('{"time_unit": "position"}')
    dataset = load_dataset(tmp_path)
    assert dataset.time_unit == "position"
    assert dataset.video_events["timestamp"].to_list() == [0, 1]


VIDEO = "video_id,title\n"
COMMENT = "comment_id,video_id,text,likes\n"
EVENT = "user_id,video_id,timestamp\n"
LIKE = "user_id,comment_id,timestamp,type\n"
WORDS = "comment_like, comment_reply, comment_write, comment_view"


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        ("videos", "video_id\nv1\n", "column title is missing (found: video_id)"),
        ("videos", f"{VIDEO}v1,A\nv1,B\n", "row 2, column video_id: is a duplicate"),
        ("videos", f"{VIDEO}v1,A\nv2, \n", "row 2, column title: is empty"),
        ("videos", f"{VIDEO}v1,A\n,B\n", "row 2, column video_id: is empty"),
        ("videos", f"{VIDEO}{'x' * 129},A\n", "column video_id: is longer than 128 characters"),
        ("videos", f"{VIDEO}v\x07,A\n", "holds a control character (found 'v\\x07')"),
        ("videos", VIDEO, "videos.csv: no rows; at least one is needed"),
        ("videos", "", "videos.csv: the file is empty"),
        ("videos", "video_id,title\nv1,A,B\n", "videos.csv: cannot be read"),
        (
            "videos",
            b"video_id,title\nv1,A\nv2,\xff\n",
            "line 3: not UTF-8 (found the bytes b'\\xff",
        ),
        ("videos", None, "the table videos is missing (looked for videos.parquet, videos.csv,"),
        ("comments", f"{COMMENT}c1,v9,t,0\n", "row 1, column video_id: names an unknown video"),
        ("comments", f"{COMMENT}c1,v1,,0\n", "row 1, column text: is empty"),
        ("comments", f"{COMMENT}c1,v1,t,-2\n", "column likes: is negative (found '-2')"),
        ("comments", f"{COMMENT}c1,v1,t,many\n", "is not a whole number (found 'many')"),
        ("comments", f"{COMMENT}c1,v1,t,1\nc1,v1,t,1\n", "row 2, column comment_id: is a dup"),
        ("video_events", f"{EVENT}a,v1,1\na,v9,{T}\n", "row 1, column timestamp: looks like sec"),
        ("video_events", f"{EVENT}a,v1,{T}\na,v9,{T}\n", "unknown video (found 'v9')"),
        ("video_events", f"{EVENT}a,v1,1700000000\n", "seconds; times are Unix milliseconds (f"),
        ("video_events", f"{EVENT}a,v1,{T * 1000}\n", "lies after 2099; times are Unix milli"),
        ("video_events", f"{EVENT}a,v1,-{T}\n", "lies before 1973"),
        ("video_events", f"{EVENT}a,v1,\n", "row 1, column timestamp: is empty"),
        ("video_events", f"{EVENT}a,v1,2024-01-01\n", "is not a whole number (found '2024-01-01')"),
        ("comment_events", f"{LIKE}a,c9,{T},\n", "names an unknown comment (found 'c9')"),
        ("comment_events", f"{LIKE}a,c1,{T},view\n", f"type: is none of {WORDS} (found 'view')"),
    ],
)
def test_a_bad_table_is_refused_by_file_row_column_and_value(tmp_path, table, content, message):
    with pytest.raises(DataError) as refusal:
        load_dataset(write_tables(tmp_path, **{table: content}))
    assert message in str(refusal.value)
    assert table in str(refusal.value)


def test_a_refusal_says_how_many_more_rows_are_bad(tmp_path):
    write_tables(tmp_path, videos=f"{VIDEO}v1,A\nv2,\nv3,\nv4,\n")
    with pytest.raises(DataError, match="row 2, column title: is empty; 2 more bad rows"):
        load_dataset(tmp_path)


def test_damaged_files_are_refused_by_name(tmp_path):
    packed = gzip.compress(TABLES["videos"].encode() * 100)
    write_tables(tmp_path, videos=None)
    for content in (packed[:-20], b"no gzip at all", packed[:40] + b"\0" * 9 + packed[49:]):
        (tmp_path / "videos.csv.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"videos\.csv\.gz: damaged gzip"):
            load_dataset(tmp_path)
    (tmp_path / "videos.csv.gz").unlink()
    (tmp_path / "videos.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"videos\.parquet: cannot be read"):
        load_dataset(tmp_path)


def test_two_files_for_one_table_are_refused(tmp_path):
    write_tables(tmp_path)
    (tmp_path / "videos.csv.gz").write_bytes(gzip.compress(TABLES["videos"].encode()))
    with pytest.raises(DataError, match=r"both videos\.csv and videos\.csv\.gz are there"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", '{"time_unit": "days"}', '{"source": 3}'])
def test_a_wrong_description_is_refused(tmp_path, content):
    write_tables(tmp_path)
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=r"dataset\.json"):
        load_dataset(tmp_path)


def test_skipping_lists_bad_rows_and_what_refers_to_them(tmp_path):
    write_tables(tmp_path, videos="video_id,title\nv1,First\nv2,\nv3,Third\n")
    dataset = load_dataset(tmp_path, skip_bad_rows=True)
    assert dataset.counts() == {
        "videos": 2,
        "comments": 2,
        "video_events": 2,
        "comment_events": 1,
    }
    assert [(Path(file).name, *rest) for file, *rest in dataset.skipped.iter_rows()] == [
        ("videos.csv", 2, "title", None, "is empty"),
        ("comments.csv", 3, "video_id", "v2", "names an unknown video"),
        ("video_events.csv", 2, "video_id", "v2", "names an unknown video"),
        ("comment_events.csv", 2, "comment_id", "c3", "names an unknown comment"),
    ]


def test_skipping_everything_is_refused(tmp_path):
    write_tables(tmp_path, video_events=f"{EVENT}a,v9,{T}\n")
    with pytest.raises(DataError, match="no rows after leaving out 1"):
        load_dataset(tmp_path, skip_bad_rows=True)


def test_writing_keeps_unit_source_and_counts_and_leaves_nothing_beside(tmp_path):
    dataset = load_dataset(write_tables(tmp_path / "mine"))
    write_dataset(dataset, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "out"}
    description = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert description["time_unit"] == "ms"
    assert description["counts"] == dataset.counts()
    assert load_dataset(tmp_path / "out").source == "mine"


def test_only_a_dataset_folder_is_overwritten_and_only_when_asked(tmp_path):
    dataset = load_dataset(write_tables(tmp_path / "mine"))
    out = tmp_path / "out"
    write_dataset(dataset, out)
    with pytest.raises(DataError, match="is not empty"):
        write_dataset(dataset, out)
    write_dataset(dataset, out, overwrite=True)
    (out / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(DataError, match=r"holds thesis\.txt"):
        write_dataset(dataset, out, overwrite=True)
    with pytest.raises(DataError, match="is a file"):
        write_dataset(dataset, out / "thesis.txt")


def test_the_fingerprint_follows_content_and_not_the_order_of_rows(tmp_path):
    dataset = load_dataset(write_tables(tmp_path / "one"))
    header, *rows = TABLES["videos"].splitlines(keepends=True)
    turned = load_dataset(write_tables(tmp_path / "two", videos=header + "".join(rows[::-1])))
    assert fingerprint(turned) == fingerprint(dataset)
    write_tables(tmp_path / "three", videos=TABLES["videos"].replace("First", "first"))
    assert fingerprint(load_dataset(tmp_path / "three")) != fingerprint(dataset)


def test_a_sample_keeps_what_the_k_core_of_active_users_can_use(tmp_path):
    """v1 and v2 have two events by active users; c has one event only and v3 one user only."""
    events = f"a,v1,{T}\na,v2,{T}\nb,v1,{T}\nb,v2,{T}\na,v3,{T}\nc,v1,{T}\n"
    extra = "".join(f"x{number},v1,more,0\n" for number in range(30))
    write_tables(
        tmp_path,
        comments=f"{COMMENT}c1,v1,nice,3\nc3,v3,ok,1\n{extra}",
        video_events=EVENT + events,
        comment_events=f"{LIKE}a,c1,{T},\nb,c3,{T},\nc,x0,{T},\n",
    )
    sample = sample_users(load_dataset(tmp_path), 9, seed=1, min_events=2)
    assert sample.videos["video_id"].to_list() == ["v1", "v2"]
    assert len(sample.video_events) == 4
    assert sample.comment_events["comment_id"].to_list() == ["c1"]
    assert len(sample.comments) == 1 + 10
    assert "c1" in sample.comments["comment_id"]
    assert fingerprint(sample) == fingerprint(
        sample_users(load_dataset(tmp_path), 9, seed=1, min_events=2)
    )
    with pytest.raises(DataError, match="share no video 2 times; draw more"):
        sample_users(load_dataset(tmp_path), 1, seed=1, min_events=2)
