"""The tables of docs/results.md as data: which settings each row was trained with.

`python -m training reproduce TABLE` runs them again.
"""

from dataclasses import dataclass

SEEDS = (2024, 2025, 2026)
NO_PRIOR = "model.prior_half_lives_days=[]"
NO_PROFILE = "model.profile_events=0"
NO_TEXT = "model.use_text=false"


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


MAIN_SET = "the main set, gatherer-comments"
SINGLE = ("fit.targets=single", "fit.batch_rows=512")
SAME_TEXT = ("text.max_tokens=128", "text.width=128")
"""Lets the preset `paper` share the text vectors of `small`."""
WEIGHED = Row("encoder weighed by validation", ("fit.choose_encoder_factor=true",))

TABLES = {
    "headline": QualityTable(
        MAIN_SET, (Row("small"), Row("dropout .5", ("model.dropout=0.5",)), WEIGHED)
    ),
    "ablations": QualityTable(
        MAIN_SET,
        (
            Row("small"),
            Row("no prior", (NO_PRIOR,)),
            Row("no profile", (NO_PROFILE,)),
            Row("no repeats", ("model.repeats=false",)),
            Row("encoder alone", (NO_PRIOR, NO_PROFILE, "model.repeats=false")),
            Row("ids only", (NO_TEXT,)),
            Row("text only", ("model.use_ids=false",)),
            Row("no categories", ("model.use_categories=false",)),
            Row("no trigrams", ("text.trigrams=0",)),
            Row("no comments", ("data.comment_event_types=[]",)),
            Row("no mix layers", ("model.mix=false",)),
            Row("last state", ("model.pool=last",)),
            Row("videos alone", ("fit.task=video",)),
            Row("comments alone", ("fit.task=comment",)),
            Row("one target a row", SINGLE),
            Row("8,192 drawn videos", ("fit.video_negatives=8192",)),
            Row("1,024 drawn videos", ("fit.video_negatives=1024",)),
            Row("no id-text loss", ("fit.id_text_weight=0",)),
            Row("weights not averaged", ("fit.average_decay=0",)),
            Row(
                "the paper's dropout and temperature",
                ("model.dropout=0.3", "model.temperature=0.07"),
            ),
            Row("the paper's blocks", ("model.norm=post", "model.encoder_kv=input")),
            Row("the paper, no stage 1", (*SAME_TEXT,), preset="paper"),
            Row("the paper, no stage 1, one target a row", (*SAME_TEXT, *SINGLE), preset="paper"),
        ),
        seeds=(2024,),
    ),
    "alignment": QualityTable(
        MAIN_SET,
        (
            Row("small"),
            Row(
                "aligned",
                (
                    "align.epochs=1",
                    "align.max_samples=4000",
                    "align.compile=false",
                    "align.recompute_activations=true",
                ),
            ),
        ),
        seeds=(2024,),
    ),
    "time": QualityTable(
        MAIN_SET + ", split by time", (Row("small"), WEIGHED), settings=("data.split=time",)
    ),
    "cold": QualityTable(
        MAIN_SET + ", one video in twenty unknown to training",
        (Row("small"),),
        settings=("data.cold_videos=0.05",),
        seeds=(2024,),
    ),
    "ml-1m": QualityTable(
        "ml-1m",
        (
            Row("no text", (NO_TEXT,)),
            Row("with titles"),
            Row("no text, sharper", (NO_TEXT, "model.temperature=0.035")),
            Row(
                "no text, wider blocks",
                (NO_TEXT, "model.feedforward=512", "model.heads=4", "model.dropout=0.35"),
            ),
        ),
        settings=(
            "model.max_history=200",
            "model.pool=last",
            "model.width=128",
            "model.encoder_layers=8",
            "model.dropout=0.3",
            "model.temperature=0.05",
            "fit.epochs=60",
            "fit.patience=8",
            "evaluate.exclude_seen=true",
        ),
        seeds=(2024,),
    ),
}
