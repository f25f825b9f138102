"""The bundle, format 1: an immutable folder that holds all a service needs to answer.

    manifest.json       what this is, every file's size and checksum, offline metrics
    encoder.onnx        histories and tables -> video preference and comment states
    encoder_weights.npy what of it loops of our own read, which are faster on a CPU
    encoder_half.onnx   the same, faster on a GPU; encoder_half_videos.onnx: for videos alone
    comment_head.onnx   comment states and target videos -> comment preferences;
                        comment_head_one_target.onnx: behind a GPU's encoder
    tables/             rows that histories look up, and candidate vectors
    index/              FAISS indexes over the candidate vectors
    catalogue/          ids, texts, categories, authors, times (`lsvcr.catalogue`)
    popular/            videos by popularity, overall and by category
    golden/             inputs with expected outputs

Arrays are `.npy`, memory-mapped; nothing is pickled. A bundle is usable only after its checksums
and dimensions (`load_bundle`) and its golden outputs (`Golden.check`, by whoever runs the graphs)
agree.
"""

import hashlib
import json
import mmap
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from lsvcr.catalogue import Catalogue, dtype_of, load_array
from lsvcr.encoder import EncoderShape
from lsvcr.errors import BundleError
from lsvcr.history import HistoryBatch
from lsvcr.popularity import PriorNetwork

FORMAT = 1
MANIFEST = "manifest.json"
TABLES = (
    "video_input_VD",
    "comment_video_input_VD",
    "comment_input_CD",
    "video_query_VD",
    "video_candidate_VD",
    "comment_candidate_CD",
)
ENCODER_TABLES = TABLES[:3]
"""What histories look up; the encoder's graphs have them as inputs."""
ENCODER_GRAPH, HEAD_GRAPH = "encoder.onnx", "comment_head.onnx"
ONE_TARGET_HEAD_GRAPH = "comment_head_one_target.onnx"
HALF_GRAPH, HALF_VIDEOS_GRAPH = "encoder_half.onnx", "encoder_half_videos.onnx"
ENCODER_WEIGHTS = "encoder_weights.npy"
PROFILE_TABLE = "tables/comment_profile_CF.npy"
SHORTEST_PROFILE = 1e-6
"""A shorter row of that table has no direction, as in training."""
GOLDEN_TOLERANCE = 1e-3
"""Largest difference of a golden output's component (unit vectors): covers fp16 and TF32."""
VERSION_PATTERN = r"^[0-9A-Za-z][0-9A-Za-z._-]{0,63}$"
"""A version names a folder of the registry, and nothing else."""
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
MAX_COMPONENT = 1e4
"""Largest number in a vector that scores are computed from: the sums stay numbers."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class FileEntry(_Frozen):
    """One file of the bundle."""

    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class IndexEntry(_Frozen):
    """How one FAISS index was chosen and what it was measured to find.

    Attributes:
        kind: `flat` compares all; `ivf_pq` has lists of shortened vectors (`lsvcr.refined_search`);
            `ivf_flat`, lists of whole ones, was written before.
        nprobe: Lists that are searched for one query.
    """

    kind: Literal["flat", "ivf_flat", "ivf_pq"]
    nprobe: int | None = Field(default=None, ge=1, le=2**31 - 1)
    recall_at_100: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _probe_lists_alone(self) -> Self:
        if (self.kind == "flat") != (self.nprobe is None):
            raise ValueError("nprobe belongs to inverted lists, and to nothing else")
        return self


class PriorEntry(_Frozen):
    """The popularity prior: what decayed counts of several half-lives add to a video's logit.

    Attributes:
        seed_hour: Hours since 1970: `popular/decayed_count_HV.npy` holds the counts at its start.
    """

    half_lives_days: tuple[PositiveFloat, ...] = Field(min_length=1)
    network: PriorNetwork
    seed_hour: int = Field(ge=0, le=100_000_000)


class ProfileEntry(_Frozen):
    """Profile similarity: (scale + scale_by_count * log(1 + n)) * cosine(profile, candidate).

    Attributes:
        events: The profile is the mean row of `tables/comment_profile_CF.npy` over the n comments
            of the user's newest so many comment events.
    """

    scale: float
    scale_by_count: float
    events: int = Field(ge=1)


class Counts(_Frozen):
    """Rows without padding, and events trained on."""

    videos: int = Field(ge=1)
    comments: int = Field(ge=0)
    users: int = Field(ge=0)
    video_events: int = Field(ge=0)
    comment_events: int = Field(ge=0)


class Manifest(_Frozen):
    """`manifest.json`.

    Attributes:
        width: D, the length of every vector.
        max_history: Events a side that the encoder reads, at most.
        comments_per_event: K, comments kept of one comment event.
        temperature: tau; a score's encoder part is cosine / tau.
        encoder: Of what the weights in `encoder_weights.npy` are; None of a bundle without.
        query_norm: Mean length of a video's query vector: what a user's video preference is
            scaled to where it stands in for a target video (all-comments ranking).
        score_parts: Names of the parts whose sum a score is: `encoder`, and `prior` and `repeat`
            (videos) and `profile` (comments) where the entries of these names are there.
        repeat_logit: What a video that the user watched before has added to its score.
        data_until_ms: The data's newest event, Unix milliseconds; None where nobody noted it.
        metrics: `metrics.json` of the run.
    """

    format: Literal[1]
    version: str = Field(pattern=VERSION_PATTERN)
    created_at: str
    width: int = Field(ge=1, le=65_536)
    max_history: int = Field(ge=1, le=100_000)
    comments_per_event: int = Field(ge=1, le=10_000)
    temperature: float = Field(gt=0, le=1000)
    encoder: EncoderShape | None = None
    query_norm: float = Field(gt=0, le=MAX_COMPONENT)
    score_parts: tuple[str, ...]
    prior: PriorEntry | None = None
    repeat_logit: float | None = Field(default=None, ge=-MAX_COMPONENT, le=MAX_COMPONENT)
    profile: ProfileEntry | None = None
    counts: Counts
    indexes: dict[Literal["video", "comment"], IndexEntry]
    files: dict[str, FileEntry]
    data_fingerprint: str
    data_until_ms: int | None = None
    config: dict[str, Any]
    metrics: dict[str, Any]
    libraries: dict[str, str]

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or str(path) != name:
                raise ValueError(f"file name {name!r} leaves the bundle's folder")
        return files


@dataclass(frozen=True)
class Golden:
    """Inputs with the outputs that the exporting machine computed from the trained model.

    Attributes:
        history: The encoder's inputs for B users, among them cold and full ones.
        target_BT: int32 video rows whose comments are ranked.
        video_preference_BD: Unit vectors.
        comment_preference_BTD: Unit vectors.
        top_video_BK: int32, the best video rows by exact score, best first.
    """

    history: HistoryBatch
    target_BT: NDArray[np.int32]
    video_preference_BD: NDArray[np.float32]
    comment_preference_BTD: NDArray[np.float32]
    top_video_BK: NDArray[np.int32]

    def check(
        self,
        run: Callable[
            [HistoryBatch, NDArray[np.int32]], tuple[NDArray[np.float32], NDArray[np.float32]]
        ],
    ) -> None:
        """Run the graphs on the golden inputs and compare.

        Args:
            run: Maps (history, target_BT) to (video_preference_BD, comment_preference_BTD).

        Raises:
            BundleError: If a component differs by more than `GOLDEN_TOLERANCE`.
        """
        video_BD, comment_BTD = run(self.history, self.target_BT)
        for name, actual, expected in (
            ("video_preference", video_BD, self.video_preference_BD),
            ("comment_preference", comment_BTD, self.comment_preference_BTD),
        ):
            if actual.shape != expected.shape:
                raise BundleError(f"golden {name}: shape {actual.shape}, not {expected.shape}")
            error = float(np.abs(actual.astype(np.float32) - expected).max(initial=0))
            if not error <= GOLDEN_TOLERANCE:  # also refuses NaN
                raise BundleError(f"golden {name}: off by {error:.2g} (> {GOLDEN_TOLERANCE})")

    def save(self, folder: Path) -> None:
        """Write as `.npy` files into an existing folder."""
        for name, array in {**self.history.arrays(), **self.outputs()}.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; raises BundleError where that fails."""
        history = [
            load_array(folder / f"{name}.npy", np.int32, dimensions=3 if name == "comment" else 2)
            for name in _HISTORY_NAMES
        ]
        outputs = [
            load_array(
                folder / f"{name}.npy",
                dtype_of(cls.__annotations__[name]),
                dimensions=len(name.rsplit("_", 1)[1]),
            )
            for name in _GOLDEN_OUTPUTS
        ]
        return cls(HistoryBatch(*history), *outputs)

    def outputs(self) -> dict[str, NDArray[Any]]:
        """What the graphs must answer, by file name."""
        return {name: getattr(self, name) for name in _GOLDEN_OUTPUTS}


_HISTORY_NAMES = (
    "video",
    "video_order",
    "video_cut",
    "comment_video",
    "comment",
    "comment_last",
    "comment_cut",
)
_GOLDEN_OUTPUTS = (
    "target_BT",
    "video_preference_BD",
    "comment_preference_BTD",
    "top_video_BK",
)


@dataclass(frozen=True)
class PopularVideos:
    """Video rows by popularity, best first, without padding.

    Attributes:
        overall_P: int32.
        by_category_Q: int32, one run per category code.
        category_start: int64, category code c owns `by_category_Q[start[c] : start[c + 1]]`.
        decayed_count_HV: float32, events by half-life of the prior, decayed to its seed hour.
    """

    overall_P: NDArray[np.int32]
    by_category_Q: NDArray[np.int32]
    category_start: NDArray[np.int64]
    decayed_count_HV: NDArray[np.float32]

    def save(self, folder: Path) -> None:
        """Write as `.npy` files into an existing folder."""
        for name in self.__annotations__:
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Memory-map what `save` wrote; raises BundleError where that fails."""
        return cls(
            *(
                load_array(
                    folder / f"{name}.npy",
                    dtype_of(kind),
                    dimensions=2 if name == "decayed_count_HV" else 1,
                )
                for name, kind in cls.__annotations__.items()
            )
        )


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: checksums and dimensions agree; golden outputs are still to be checked.

    Attributes:
        tables: By the names of `TABLES`: float32, row 0 zero except in `comment_video_input_VD`
            and `video_input_VD`, where no event ever points to it.
        encoder_weight_W: As `export.encoder_weights` lays them out; None without
            `manifest.encoder`.
        comment_profile_CF: float32 or float16, what profiles are means of; None without them.
    """

    folder: Path
    manifest: Manifest
    catalogue: Catalogue
    tables: dict[str, NDArray[np.float32]]
    encoder_weight_W: NDArray[np.float32] | None
    comment_profile_CF: NDArray[np.floating[Any]] | None
    popular: PopularVideos
    golden: Golden


def load_bundle(folder: Path, *, verify_checksums: bool = True) -> Bundle:
    """Read a bundle and check all that can be checked without running its graphs.

    Args:
        folder: The bundle's folder.
        verify_checksums: Off only where the same process has just verified them.

    Raises:
        BundleError: With the reason, if anything is missing, damaged or contradictory.
    """
    with bundle_being_checked(folder, verify_checksums=verify_checksums) as bundle:
        return bundle


@contextmanager
def bundle_being_checked(folder: Path, *, verify_checksums: bool = True) -> Iterator[Bundle]:
    """As `load_bundle`, but whoever is to open the bundle does so while it is being checked.

    Files, dimensions and the graphs' checksums are checked before the block, every other byte and
    number beside it. It must let nobody use what it opens.

    Raises:
        BundleError: At the end of the block, whatever the block raises: a file that has changed
            is why.
    """
    manifest = load_manifest(folder)
    check_files(folder, manifest)
    graphs = {name: entry for name, entry in manifest.files.items() if name.endswith(".onnx")}
    others = {name: entry for name, entry in manifest.files.items() if name not in graphs}
    # The check that was begun first says what is wrong, where several would.
    with ThreadPoolExecutor(3) as beside, ExitStack() as checked:
        if verify_checksums:
            verify_files(folder, graphs)
            checked.callback(beside.submit(verify_files, folder, others).result)
        bundle = map_bundle(folder)
        checked.callback(beside.submit(bundle.catalogue.check).result)
        _check_dimensions(bundle)
        checked.callback(beside.submit(_check_values, bundle).result)
        yield bundle


def map_bundle(folder: Path) -> Bundle:
    """Memory-map a bundle that another process of this machine has loaded and checked.

    Looks at sizes and types only, so that it takes no longer for a larger bundle.

    Raises:
        BundleError: If a file is missing or no array of its type.
    """
    manifest = load_manifest(folder)
    return Bundle(
        folder=folder,
        manifest=manifest,
        catalogue=Catalogue.map(folder / "catalogue"),
        tables={
            name: load_array(folder / "tables" / f"{name}.npy", np.float32, dimensions=2)
            for name in TABLES
        },
        encoder_weight_W=load_array(folder / ENCODER_WEIGHTS, np.float32, dimensions=1)
        if manifest.encoder
        else None,
        comment_profile_CF=load_array(folder / PROFILE_TABLE, np.float16, np.float32, dimensions=2)
        if manifest.profile
        else None,
        popular=PopularVideos.load(folder / "popular"),
        golden=Golden.load(folder / "golden"),
    )


def load_manifest(folder: Path) -> Manifest:
    """Read and validate `manifest.json`; raises BundleError where that fails."""
    try:
        text = _read_manifest(folder / MANIFEST)
        fields = json.loads(
            text, object_pairs_hook=_refuse_repeated, parse_constant=_refuse_constant
        )
        if isinstance(fields, dict) and str(fields.get("format")) != str(FORMAT):
            raise BundleError(
                f"{MANIFEST}: format {fields.get('format')!r}; this version reads {FORMAT}"[:200]
            )
        return Manifest.model_validate_json(text)
    except OSError as error:
        raise BundleError(f"{MANIFEST} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(f"{MANIFEST}: {where}: {first['msg']}"[:500]) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is not valid JSON: {error}"[:500]) from error


def _read_manifest(path: Path) -> bytes:
    """Read a plain file of a size that a manifest may have."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{MANIFEST} is a link or no file")
    if status.st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{MANIFEST} has {status.st_size} bytes; {MAX_MANIFEST_BYTES} at most")
    return path.read_bytes()


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return fields


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """Size and checksum of every file below a bundle's folder, the manifest excepted."""
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    return {
        name: FileEntry(size_bytes=(folder / name).stat().st_size, sha256=_sha256(folder / name))
        for name in names
        if name != MANIFEST
    }


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare the folder with the manifest: no file missing, added, of another size, or a link.

    Raises:
        BundleError: Naming the first file that disagrees.
    """
    present = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    for name in sorted(present - set(manifest.files) - {MANIFEST}):
        raise BundleError(f"{name} is not listed in the manifest")
    for name, entry in manifest.files.items():
        path = folder / name
        if any((folder / part).is_symlink() for part in (Path(name), *Path(name).parents)):
            raise BundleError(f"{name} is a link")
        if not path.is_file():
            raise BundleError(f"{name} is missing")
        if path.stat().st_size != entry.size_bytes:
            raise BundleError(f"{name} has {path.stat().st_size} bytes, not {entry.size_bytes}")


def verify_files(folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Compare every byte of some files with the manifest's checksums; raises BundleError.

    Threads take the largest files first, so that none is left alone with one of them.
    """
    names = sorted(files, key=lambda name: files[name].size_bytes, reverse=True)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for name, actual in zip(
            names, pool.map(_sha256, (folder / name for name in names)), strict=True
        ):
            if actual != files[name].sha256:
                raise BundleError(f"{name}: checksum differs from the manifest's")


def _check_dimensions(bundle: Bundle) -> None:
    manifest, catalogue = bundle.manifest, bundle.catalogue
    rows = {"V": catalogue.video_count, "C": catalogue.comment_count}
    if (rows["V"] - 1, rows["C"] - 1) != (manifest.counts.videos, manifest.counts.comments):
        raise BundleError("the catalogue's size differs from the manifest's counts")
    for name, table in bundle.tables.items():
        expected = (rows[name[-2]], manifest.width)
        if table.shape != expected:
            raise BundleError(
                f"tables/{name}.npy is {table.dtype}{table.shape}, not float32{expected}"
            )
    _check_encoder(bundle)
    profile_CF = bundle.comment_profile_CF
    if profile_CF is not None and (len(profile_CF) != rows["C"] or not profile_CF.shape[1]):
        raise BundleError(f"{PROFILE_TABLE} does not fit the catalogue")
    _check_golden(bundle.golden, manifest, rows)
    popular = bundle.popular
    half_lives = len(manifest.prior.half_lives_days) if manifest.prior else 0
    if popular.decayed_count_HV.shape != (half_lives, rows["V"]):
        raise BundleError("popular/decayed_count_HV.npy does not fit prior and catalogue")
    if manifest.prior and len(manifest.prior.network.direct_H) != half_lives:
        raise BundleError("the prior has not one weight for each half-life")
    count_HV = popular.decayed_count_HV
    least, most = count_HV.min(initial=0), count_HV.max(initial=0)
    if not (least >= 0 and most < np.inf):  # also refuses NaN
        raise BundleError("popular/decayed_count_HV.npy holds values that are no counts")
    for name in ("overall_P", "by_category_Q"):
        rows_P = getattr(popular, name)
        if len(rows_P) and (rows_P.min() < 1 or rows_P.max() >= rows["V"]):
            raise BundleError(f"popular/{name}.npy names videos that do not exist")
        if np.bincount(rows_P).max(initial=0) > 1:
            raise BundleError(f"popular/{name}.npy names a video twice")
    starts = popular.category_start
    if len(starts) != len(catalogue.categories) + 1 or (np.diff(starts) < 0).any():
        raise BundleError("popular/category_start.npy does not fit the catalogue's categories")
    if starts[0] != 0 or starts[-1] != len(popular.by_category_Q):
        raise BundleError("popular/category_start.npy does not span by_category_Q")


def _check_encoder(bundle: Bundle) -> None:
    manifest, shape, weight_W = bundle.manifest, bundle.manifest.encoder, bundle.encoder_weight_W
    if shape is None or weight_W is None:
        return
    if (shape.width, shape.history) != (manifest.width, manifest.max_history):
        raise BundleError("the encoder's width or history differs from the manifest's own")
    if shape.width % shape.heads:
        raise BundleError(f"the encoder's {shape.heads} heads don't share its width {shape.width}")
    if len(weight_W) != shape.weights:
        raise BundleError(f"{ENCODER_WEIGHTS} has {len(weight_W)} numbers, not {shape.weights}")


def _check_values(bundle: Bundle) -> None:
    """Read all vectors; raises BundleError where one of their numbers is none, or huge."""
    for name, table in bundle.tables.items():
        most = float(np.finfo(np.float32).max) if "input" in name else MAX_COMPONENT
        if not is_within(table, most):
            raise BundleError(f"tables/{name}.npy holds values that are not finite, or huge")
    weight_W, profile_CF = bundle.encoder_weight_W, bundle.comment_profile_CF
    if weight_W is not None and not is_within(weight_W, float(np.finfo(np.float32).max)):
        raise BundleError(f"{ENCODER_WEIGHTS} holds values that are not finite")
    if profile_CF is not None and not is_within(profile_CF, MAX_COMPONENT):
        raise BundleError(f"{PROFILE_TABLE} holds values that are not finite, or huge")


def is_within(array: NDArray[np.floating[Any]], most: float) -> bool:
    """Whether no number is NaN or beyond a bound; without a copy of a large table.

    Args:
        array: Not empty; float16 or float32.
        most: A number of the array's type.
    """
    if array.dtype == np.float16:
        # Numpy compares halves one by one. Their bits are ordered as they are, first those
        # without and then those with a sign, each from 0 to infinity and on to NaN.
        most_bits, least_bits = np.array([most, -most], np.float16).view(np.uint16)
        is_small = array.view(np.int16).max() <= most_bits
        return bool(is_small and array.view(np.uint16).max() <= least_bits)
    return float(array.max()) <= most and float(array.min()) >= -most


def _check_golden(golden: Golden, manifest: Manifest, rows: dict[str, int]) -> None:
    """Raise BundleError unless shapes and rows fit one another, the tables and the manifest."""
    users, targets = golden.target_BT.shape
    slots = golden.history.video_BI.shape[1]
    states = golden.history.comment_video_BJ.shape[1]
    expected = {
        **dict.fromkeys(("video", "video_order", "video_cut"), (users, slots)),
        **dict.fromkeys(("comment_video", "comment_last", "comment_cut"), (users, states)),
        "comment": (users, states, manifest.comments_per_event),
        "video_preference_BD": (users, manifest.width),
        "comment_preference_BTD": (users, targets, manifest.width),
        "top_video_BK": (users, golden.top_video_BK.shape[1]),
    }
    arrays = {**golden.history.arrays(), **golden.outputs()}
    for name, shape in expected.items():
        if arrays[name].shape != shape or 0 in shape:
            raise BundleError(f"golden/{name}.npy has shape {arrays[name].shape}, not {shape}")
    for name, table in (
        ("video", "V"),
        ("comment_video", "V"),
        ("comment", "C"),
        ("target_BT", "V"),
        ("top_video_BK", "V"),
    ):
        if arrays[name].min() < 0 or arrays[name].max() >= rows[table]:
            raise BundleError(f"golden/{name}.npy names items that do not exist")


def _sha256(path: Path) -> str:
    """Hash a file as one piece: between two of them a thread waits for Python's lock."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return hashlib.sha256().hexdigest()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            content.madvise(mmap.MADV_SEQUENTIAL)
            return hashlib.sha256(content).hexdigest()
