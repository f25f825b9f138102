"""An A/B test in the demo world: its users react to what the real service shows them.

The service draws the arms, logs what it shows and makes the report. Beside, every user lives a
second time in the other arm, forced there by header and under another name: so both potential
outcomes are known, and with them the true effect. The report leaves those lives out.
"""

import argparse
import json
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx2
import msgspec
import numpy as np
import polars as pl

from analysis.comparison import compare
from analysis.definition import Definition, Plan
from analysis.metrics import OUTCOMES
from analysis.tables import EVENTS, EXPOSURES, check_tables
from analysis.unit_table import build_unit_table
from benchmarks.results_file import write_results
from benchmarks.service_process import running_service
from lsvcr.errors import DataError
from lsvcr_client import Client, new_event
from lsvcr_client.answers import CommentsAnswer, VideosAnswer
from lsvcr_client.experiments import Arm, Experiment, Overrides
from lsvcr_client.requests import (
    Event,
    PutExperiment,
    ReadAssignment,
    ReadReport,
    RecommendComments,
    RecommendVideos,
    Request,
    SendEvents,
)
from training.demo_behaviour import (
    SUBJECTS,
    VIDEO_EVENTS_PER_USER,
    LatentCatalogue,
    LatentUsers,
    draw_catalogue,
    draw_users,
)
from training.demo_vocabulary import TOPICS

OVERRIDES = {
    "model": Overrides(),
    "popular": Overrides(popularity_weight=100.0),  # nothing else has a say
    "short": Overrides(max_history=2),
}
"""What an arm may be beside a version of the registry."""
NAME, TREATMENT, OTHER = "simulation", "treatment", "other/"
PRIMARY: Literal["comment_watch_time_ms"] = "comment_watch_time_ms"
TIMEOUT_MS = 300_000
EVENTS_A_CALL = 500
USERS = 600
SHOWN_VIDEOS, SHOWN_COMMENTS = 8, 3
PRE_DAYS = 90
ASSIGNMENTS = 400
PLAN = {"planned_units": USERS, "pre_days": PRE_DAYS}

Row = dict[str, Any]
AnswerT = TypeVar("AnswerT", VideosAnswer, CommentsAnswer)


@dataclass(frozen=True)
class World:
    """The demo world's inside, and what its users did so far, by user id."""

    catalogue: LatentCatalogue
    people: LatentUsers
    histories: dict[str, list[Row]]


@dataclass(frozen=True)
class Life:
    """One user in one arm: as the service drew it, or in the other one.

    Attributes:
        headers: Force the arm where it wasn't drawn.
        factor: Of watch times.
    """

    user: str
    arm: str
    headers: dict[str, str]
    factor: float

    @property
    def name(self) -> str:
        """By which the service knows this life."""
        return OTHER + self.user if self.headers else self.user


def main() -> None:
    args = parse_arguments()
    started_s = time.monotonic()
    world = open_world(args.demo / "data")
    with tempfile.TemporaryDirectory() as unkept:
        folder = args.out or Path(unkept)
        (folder / "log").mkdir(parents=True, exist_ok=True)
        options = ["--report-folder", str(folder / "log"), "--deadline-ms", "10000"]
        options += ["--store-timeout-ms", "2000", "--store-write-timeout-ms", "5000"]
        with (
            tempfile.TemporaryDirectory() as store,
            running_service(
                args.demo / "registry", Path(store), workers=1, arguments=options
            ) as port,
            Client(f"http://127.0.0.1:{port}", timeout_ms=TIMEOUT_MS) as client,
        ):
            send_histories(client, world)
            definition = define(client, args)
            outcomes = live(world, client, args)
            report = fetch_report(client, folder)
        truth = true_lift(outcomes)
        again = assign_again(folder / "log", definition, truth[PRIMARY])
    found = {
        "control": args.control,
        "treatment": args.treatment,
        "lift": args.lift,
        "users": len(world.histories),
        "visits": args.visits,
        "seconds": round(time.monotonic() - started_s),
        "verdict": report["verdicts"][0]["text"],
        "metrics": compare_with_truth(report, truth),
        "other_assignments": again,
    }
    tell(found)
    write_results(args.json, found)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path(".demo"), help="what `make demo` made")
    arm = f"{', '.join(OVERRIDES)}, or a version of the registry"
    parser.add_argument("--control", default="popular", help=arm)
    parser.add_argument("--treatment", default="model", help=f"{arm}; as the control: an A/A test")
    parser.add_argument(
        "--lift", type=float, default=0.0, help="make the treatment's watch times longer"
    )
    parser.add_argument("--visits", type=int, default=2, help="of each user")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="DIR", help="tables and page go there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    return parser.parse_args()


def open_world(data: Path) -> World:
    """Draw the demo world's inside again, as `build_demo_world` drew it with its defaults."""
    sizes = [len(pl.read_parquet(data / f"{name}.parquet")) for name in ("videos", "comments")]
    rng = np.random.default_rng(0)
    catalogue = draw_catalogue(*sizes, rng)
    categories = pl.read_parquet(data / "videos.parquet")["category"].to_list()
    if [list(TOPICS)[topic] for topic in catalogue.topic_V] != categories:
        raise DataError(f"{data}: not the demo world of seed 0, as `training data demo` makes it")
    people = draw_users(USERS, min(2 * VIDEO_EVENTS_PER_USER, sizes[0] // 2), rng)
    histories: dict[str, list[Row]] = {}
    for side, item in (("video_events", "video_id"), ("comment_events", "comment_id")):
        rows = pl.read_parquet(data / f"{side}.parquet").sort("timestamp")
        columns = ["user_id", item, "timestamp", "type"]
        columns += ["watch_time_ms"] if "watch_time_ms" in rows.columns else []
        for row in rows.select(columns).iter_rows(named=True):
            histories.setdefault(row["user_id"], []).append(row)
    return World(catalogue, people, histories)


def send_histories(client: Client, world: World) -> None:
    """Store every user's events, once for each life."""
    events = [
        Event(**{**row, "user_id": name + user, "event_id": f"{name}{user}/{number}"})
        for name in ("", OTHER)
        for user, rows in world.histories.items()
        for number, row in enumerate(rows)
    ]
    for start in range(0, len(events), EVENTS_A_CALL):
        client.send(SendEvents(events[start : start + EVENTS_A_CALL]))


def define(client: Client, args: argparse.Namespace) -> Definition:
    """Start the experiment; its seed draws other arms each time."""
    arms = [
        _arm(name, wanted)
        for name, wanted in (("control", args.control), (TREATMENT, args.treatment))
    ]
    experiment = Experiment(
        name=NAME,
        seed=f"{NAME}-{args.seed}",
        arms=arms,
        control="control",
        status="running",
        primary_metric=PRIMARY,
    )
    put = client.send(PutExperiment(experiment))
    return Definition.model_validate_json(msgspec.json.encode(put))


def _arm(name: str, wanted: str) -> Arm:
    if wanted in OVERRIDES:
        return Arm(name=name, weight=0.5, overrides=OVERRIDES[wanted])
    return Arm(name=name, weight=0.5, model_version=wanted)


def live(world: World, client: Client, args: argparse.Namespace) -> dict[str, Counter[str]]:
    """Let every user live in both arms; what chance brings is the same in both.

    Returns:
        What all did together, by arm.
    """

    def both_lives(user: str) -> list[tuple[str, Counter[str]]]:
        drawn = client.send(ReadAssignment(user_id=user)).assignments[0].arm
        lives = [
            Life(user, arm, {} if arm == drawn else {"X-Arm": arm}, _factor(arm, args.lift))
            for arm in ("control", TREATMENT)
        ]
        done: list[tuple[str, Counter[str]]] = []
        for life in lives:
            rng = np.random.default_rng([args.seed, zlib.crc32(user.encode())])
            done += [(life.arm, _visit(client, world, life, rng)) for _ in range(args.visits)]
        return done

    outcomes: dict[str, Counter[str]] = {"control": Counter(), TREATMENT: Counter()}
    with ThreadPoolExecutor(4) as pool:
        for done in pool.map(both_lives, world.histories):
            for arm, outcome in done:
                outcomes[arm] += outcome
    return outcomes


def _factor(arm: str, lift: float) -> float:
    return 1 + lift if arm == TREATMENT else 1.0


def _visit(client: Client, world: World, life: Life, rng: np.random.Generator) -> Counter[str]:
    """A page of videos; some are watched, and under those some comments are read."""
    number = int(life.user[1:])
    last = int(world.people.is_event_UE[number].sum()) - 1
    subject = int(world.people.subject_UE[number, last])
    tone = int(world.people.tone_UE[number, last])
    # Drawn for every place before anything is shown: arms differ in what is shown alone.
    luck_S = rng.random(SHOWN_VIDEOS)
    minutes_S = rng.gamma(4.0, 0.25, SHOWN_VIDEOS)
    comment_luck_SK = rng.random((SHOWN_VIDEOS, SHOWN_COMMENTS))
    seconds_SK = rng.gamma(4.0, 2.0, (SHOWN_VIDEOS, SHOWN_COMMENTS))

    page = _ask(client, life, RecommendVideos(user_id=life.name, k=SHOWN_VIDEOS))
    done: list[Event] = []
    for place, item in enumerate(page.items):
        video = int(item.video_id[1:])
        match = (
            3.0 * (world.catalogue.topic_V[video] == subject // SUBJECTS)
            + 2.0 * (world.catalogue.subject_V[video] == subject)
            + 2.0 * (world.catalogue.tone_V[video] == tone)
        )
        if luck_S[place] > _chance(match - 3.0):
            continue
        watched_ms = int(60_000 * minutes_S[place] * (1 + match / 7) * life.factor)
        done.append(
            new_event(
                life.name,
                "video_watch",
                video_id=item.video_id,
                recommendation_id=page.recommendation_id,
                watch_time_ms=watched_ms,
            )
        )
        below = RecommendComments(user_id=life.name, video_id=item.video_id, k=SHOWN_COMMENTS)
        thread = _ask(client, life, below)
        for rank, comment in enumerate(thread.items):
            own = world.catalogue.tone_C[int(comment.comment_id[1:])] == tone
            if comment_luck_SK[place, rank] > _chance(3.0 * own - 2.0):
                continue
            done.append(
                new_event(
                    life.name,
                    "comment_view",
                    comment_id=comment.comment_id,
                    recommendation_id=thread.recommendation_id,
                    watch_time_ms=int(1000 * seconds_SK[place, rank] * life.factor),
                )
            )
    return _send(client, done)


def _ask(client: Client, life: Life, request: Request[AnswerT]) -> AnswerT:
    answer = client.send(request, headers=life.headers)
    if answer.model.arm != life.arm:
        raise RuntimeError(f"{life.name} was answered by the arm {answer.model.arm}")
    return answer


def _send(client: Client, done: list[Event]) -> Counter[str]:
    """Tell the service what was done; returns the sums."""
    if done and client.send(SendEvents(done)).accepted != len(done):
        raise RuntimeError("not all events were accepted")
    sums = Counter[str]()
    for event in done:
        side = event.type.split("_")[0]
        sums[f"{side}_watch_time_ms"] += event.watch_time_ms or 0
        sums[f"{side}_events"] += 1
    return sums


def _chance(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


def fetch_report(client: Client, folder: Path) -> Row:
    """The service's own report; leaves the page beside the log."""
    request = ReadReport(NAME, planned_units=USERS, pre_days=PRE_DAYS)
    page = httpx2.get(f"{client.url}{request.target()}&format=html", timeout=TIMEOUT_MS / 1000)
    (folder / "report.html").write_bytes(page.raise_for_status().content)
    report = client.send(request)
    (folder / "report.json").write_text(json.dumps(report))
    return report


def true_lift(outcomes: Mapping[str, Counter[str]]) -> dict[str, float]:
    """The lift over both lives of all users: what the experiment tries to estimate."""
    control, treatment = outcomes["control"], outcomes[TREATMENT]
    return {name: treatment[name] / control[name] - 1 for name in sorted(control)}


def assign_again(log: Path, definition: Definition, truth: float) -> Row:
    """Analyse the same lives under other assignments: how often is the interval right?"""
    plan = Plan.model_validate(PLAN)
    shown = pl.read_parquet(log / "exposures.parquet").select(*EXPOSURES)
    events = [pl.read_parquet(log / f"{side}_events.parquet") for side in ("video", "comment")]
    all_lives = shown.with_columns(reason=pl.lit("bucket"))
    tables = check_tables(
        all_lives, pl.concat([one.select(*EVENTS) for one in events]), definition, log
    )
    rows = build_unit_table(tables, plan).units.with_columns(
        user=pl.col("unit_id").str.strip_prefix(OTHER)
    )
    users = rows["user"].unique().sort()
    metric = next(one for one in OUTCOMES if one.name == PRIMARY)
    counts = Counter[str]()
    for seed in range(ASSIGNMENTS):
        is_treated_U = np.random.default_rng([seed, 1]).random(len(users)) < 0.5
        arms = pl.DataFrame({"user": users, "drawn": np.where(is_treated_U, TREATMENT, "control")})
        units = rows.join(arms, on="user").filter(pl.col("arm") == pl.col("drawn"))
        found = compare(units, metric, control="control", arm=TREATMENT, plan=plan)
        counts["differs"] += found.p_fixed_horizon < plan.alpha
        if found.lift:
            for kind in ("fixed_horizon", "always_valid"):
                low, high = found.lift.interval(kind)
                counts[kind] += low <= truth <= high
    return {
        "assignments": ASSIGNMENTS,
        "fixed_horizon_covers": counts["fixed_horizon"] / ASSIGNMENTS,
        "always_valid_covers": counts["always_valid"] / ASSIGNMENTS,
        "p_below_0.05": counts["differs"] / ASSIGNMENTS,
    }


def compare_with_truth(report: Row, truth: Mapping[str, float]) -> list[Row]:
    """Each metric's true lift beside what was found."""
    return [
        {"metric": one["metric"], "truth": round(truth[one["metric"]], 4), **_rounded(one["lift"])}
        for one in report["outcomes"]
        if one["metric"] in truth and one["lift"]
    ]


def _rounded(lift: Row) -> Row:
    return {
        "found": round(lift["value"], 4),
        "fixed_horizon": [round(end, 4) for end in lift["fixed_horizon"]],
        "always_valid": [round(end, 4) for end in lift["always_valid"]],
    }


def tell(found: Row) -> None:
    """Print the verdict, and each metric's truth beside what was estimated."""
    print(found["verdict"])
    print(f"\n{'metric':24}{'truth':>9}{'found':>9}   fixed-horizon      always valid")
    for one in found["metrics"]:
        bounds = "   ".join(
            f"{low:+.1%} … {high:+.1%}" for low, high in (one["fixed_horizon"], one["always_valid"])
        )
        print(f"{one['metric']:24}{one['truth']:>+9.1%}{one['found']:>+9.1%}   {bounds}")
    again = found["other_assignments"]
    print(
        f"\n{again['assignments']} other assignments of the same lives: the fixed-horizon interval "
        f"covers the truth in {again['fixed_horizon_covers']:.1%}, the always-valid one in "
        f"{again['always_valid_covers']:.1%}; p < 0.05 in {again['p_below_0.05']:.1%}"
    )
    print(f"{found['seconds']} s")
