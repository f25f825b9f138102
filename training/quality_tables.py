"""The tables of docs/results.md as data: which settings each row was trained with.

`python -m training reproduce TABLE` runs them again.
"""

from dataclasses import dataclass

SEEDS = (2024, 2025, 2026)
NO_PRIOR = "model.prior_half_lives_days=[]"
NO_PROFILE = "model.profile_events=0"


@dataclass(frozen=True)
class Row:
    """One configuration.

    Attributes:
        settings: As for `--set`, on top of the table's own.
        preset: Where the settings begin.
    """

    name: str
    settings: tuple[str, ...] = ()
    preset: str = "small"


@dataclass(frozen=True)
class QualityTable:
    """Rows that are trained on one data set; the first is what the others are compared with."""

    data: str
    rows: tuple[Row, ...]
    settings: tuple[str, ...] = ()
    seeds: tuple[int, ...] = SEEDS


TABLES = {
    "headline": QualityTable("the main set, gatherer-comments", (Row("small"),)),
    "ablations": QualityTable(
        "the main set, gatherer-comments",
        (
            Row("small"),
            Row("no prior", (NO_PRIOR,)),
            Row("no profile", (NO_PROFILE,)),
            Row("encoder alone", (NO_PRIOR, NO_PROFILE)),
            Row("ids only", ("model.use_text=false",)),
            Row("text only", ("model.use_ids=false",)),
            Row("no categories", ("model.use_categories=false",)),
            Row("no comments", ("data.comment_event_types=[]",)),
            Row("videos alone", ("fit.task=video",)),
            Row("comments alone", ("fit.task=comment",)),
            Row("one target a row", ("fit.targets=single", "fit.batch_rows=512")),
            Row("8,192 drawn videos", ("fit.video_negatives=8192",)),
            Row("1,024 drawn videos", ("fit.video_negatives=1024",)),
            Row("no id-text loss", ("fit.id_text_weight=0",)),
            Row("paper's blocks", ("model.norm=post", "model.encoder_kv=input")),
            Row("paper's preset, no stage 1", preset="paper"),
        ),
        seeds=(2024,),
    ),
    "ml-1m": QualityTable(
        "ml-1m",
        (
            Row("small, histories of 200", ("model.use_text=false",)),
            Row("with titles"),
            Row("four layers, wider", ("model.width=128", "model.encoder_layers=4")),
        ),
        settings=("model.max_history=200", "fit.epochs=60", "evaluate.exclude_seen=true"),
    ),
}
