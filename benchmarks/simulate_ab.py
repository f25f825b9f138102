"""An A/B test in the demo world: its users react to what the real service shows them.

Every user exists once per arm in the store, so that both potential outcomes are known and with
them the true effect; the report sees only the outcome of the arm that the user was assigned to.
"""

import argparse
import http.client
import json
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from analysis.comparison import Estimate, compare
from analysis.definition import Arm, Definition, Plan
from analysis.metrics import OUTCOMES
from analysis.page import build_page
from analysis.report import Report, build_report
from analysis.tables import EVENTS, EXPOSURES, check_tables, load_tables
from analysis.unit_table import build_unit_table
from benchmarks.service_process import running_service
from lsvcr.errors import DataError
from training.demo_behaviour import (
    SUBJECTS,
    VIDEO_EVENTS_PER_USER,
    LatentCatalogue,
    LatentUsers,
    draw_catalogue,
    draw_users,
)
from training.demo_vocabulary import TOPICS

ARMS = ("model", "popular", "no_comments")
EVENTS_A_CALL = 500
HISTORY = 50
USERS = 600
SHOWN_VIDEOS, SHOWN_COMMENTS = 8, 3
DAY_MS = 86_400_000
TREATMENT = "treatment"

ASSIGNMENTS = 400
DEFINITION = Definition(
    name="simulation",
    arms=(Arm(name="control", weight=0.5), Arm(name=TREATMENT, weight=0.5)),
    control="control",
    primary_metric="comment_watch_time_ms",
)
# Clients and service share the machine's cores here: the wait is as much theirs as the model's.
PLAN = Plan(planned_units=600, margins={"latency_ms": 50.0})

Row = dict[str, Any]


@dataclass(frozen=True)
class World:
    """The demo world's inside, and what its users did so far, by user id."""

    catalogue: LatentCatalogue
    people: LatentUsers
    histories: dict[str, dict[str, list[Row]]]
    now_ms: int


@dataclass
class Log:
    """What one potential life of a user left behind."""

    exposures: list[Row]
    events: list[Row]


class Client:
    """One connection to the service."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def post(self, path: str, body: Row) -> Row:
        self.connection.request("POST", path, json.dumps(body))
        answer = self.connection.getresponse()
        content = json.loads(answer.read())
        if answer.status != 200:
            raise RuntimeError(f"{path} answered {answer.status}: {content}")
        return dict(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path(".demo"), help="what `make demo` made")
    parser.add_argument("--control", choices=ARMS, default="popular")
    parser.add_argument("--treatment", choices=ARMS, default="model", help="the same: an A/A test")
    parser.add_argument(
        "--lift", type=float, default=0.0, help="make the treatment's watch times longer"
    )
    parser.add_argument("--visits", type=int, default=2, help="of each user")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="DIR", help="tables and page go there")
    args = parser.parse_args()

    started_s = time.monotonic()
    world = open_world(args.demo / "data")
    serving = {"control": args.control, TREATMENT: args.treatment}
    with (
        tempfile.TemporaryDirectory() as store,
        running_service(args.demo / "registry", Path(store), workers=1) as port,
    ):
        send_histories(Client(port), world)
        logs = {arm: live(world, port, arm, serving[arm], args) for arm in serving}
    assigned = assign(world.histories, args.seed)
    with tempfile.TemporaryDirectory() as unkept:
        folder = args.out or Path(unkept)
        folder.mkdir(parents=True, exist_ok=True)
        led = {user: logs[arm][user] for user, arm in assigned.items()}
        for name, table in tables_of(world, led).items():
            table.write_parquet(folder / f"{name}.parquet")
        report = report_on(folder)
    truth = true_lift(logs)
    tell(report, truth)
    print("\n" + assign_again(world, logs, truth[DEFINITION.primary_metric]))
    print(f"{time.monotonic() - started_s:.0f} s")


def open_world(data: Path) -> World:
    """Draw the demo world's inside again, as `build_demo_world` drew it with its defaults."""
    sizes = [len(pl.read_parquet(data / f"{name}.parquet")) for name in ("videos", "comments")]
    rng = np.random.default_rng(0)
    catalogue = draw_catalogue(*sizes, rng)
    categories = pl.read_parquet(data / "videos.parquet")["category"].to_list()
    if [list(TOPICS)[topic] for topic in catalogue.topic_V] != categories:
        raise DataError(f"{data}: not the demo world of seed 0, as `training data demo` makes it")
    people = draw_users(USERS, min(2 * VIDEO_EVENTS_PER_USER, sizes[0] // 2), rng)
    histories: dict[str, dict[str, list[Row]]] = {}
    now_ms = 0
    for side, item in (("videos", "video_id"), ("comments", "comment_id")):
        rows = pl.read_parquet(data / f"{side[:-1]}_events.parquet").sort("timestamp")
        now_ms = max(now_ms, int(rows["timestamp"][-1]))
        for row in rows.select("user_id", item, "timestamp", "type").iter_rows(named=True):
            user = histories.setdefault(row["user_id"], {"videos": [], "comments": []})
            user[side].append(row)
    return World(catalogue, people, histories, now_ms + 1)


def send_histories(client: Client, world: World) -> None:
    """Store every user's events once per arm."""
    lines = [
        {**row, "user_id": f"{arm}/{user}", "event_id": f"{arm}/{user}/{side}/{number}"}
        for arm in ("control", TREATMENT)
        for user, sides in world.histories.items()
        for side, rows in sides.items()
        for number, row in enumerate(rows)
    ]
    for start in range(0, len(lines), EVENTS_A_CALL):
        client.post("/events", {"events": lines[start : start + EVENTS_A_CALL]})


def live(world: World, port: int, arm: str, shows: str, args: argparse.Namespace) -> dict[str, Log]:
    """Let every user live in one arm; what chance brings a user is the same in both arms."""
    lift = args.lift if arm == TREATMENT else 0.0

    def one_life(user: str) -> Log:
        rng = np.random.default_rng([args.seed, zlib.crc32(user.encode())])
        client, log = Client(port), Log([], [])
        for visit in range(args.visits):
            at_ms = world.now_ms + int((visit + rng.random()) * DAY_MS)
            _visit(client, world, log, (arm, shows, user), at_ms, 1 + lift, rng)
        client.connection.close()
        return log

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(world.histories, pool.map(one_life, world.histories), strict=True))


def _visit(
    client: Client,
    world: World,
    log: Log,
    who: tuple[str, str, str],
    at_ms: int,
    factor: float,
    rng: np.random.Generator,
) -> None:
    """A page of videos; some are watched, and under those some comments are read."""
    arm, _, user = who
    number = int(user[1:])
    last = int(world.people.is_event_UE[number].sum()) - 1
    subject = int(world.people.subject_UE[number, last])
    tone = int(world.people.tone_UE[number, last])
    # Drawn for every place before anything is shown: arms differ in what is shown alone.
    luck_S = rng.random(SHOWN_VIDEOS)
    minutes_S = rng.gamma(4.0, 0.25, SHOWN_VIDEOS)
    comment_luck_SK = rng.random((SHOWN_VIDEOS, SHOWN_COMMENTS))
    seconds_SK = rng.gamma(4.0, 2.0, (SHOWN_VIDEOS, SHOWN_COMMENTS))

    page = _ask(client, world, log, who, at_ms, "videos", {"k": SHOWN_VIDEOS})
    done = []
    for place, item in enumerate(page["items"]):
        video = int(item["video_id"][1:])
        match = (
            3.0 * (world.catalogue.topic_V[video] == subject // SUBJECTS)
            + 2.0 * (world.catalogue.subject_V[video] == subject)
            + 2.0 * (world.catalogue.tone_V[video] == tone)
        )
        if luck_S[place] > _chance(match - 3.0):
            continue
        watched_ms = int(60_000 * minutes_S[place] * (1 + match / 7) * factor)
        answer = page["recommendation_id"]
        seen = {"type": "video_watch", "video_id": item["video_id"], "watch_time_ms": watched_ms}
        done.append({**seen, "recommendation_id": answer, "timestamp": at_ms + place * 1000})
        body = {"k": SHOWN_COMMENTS, "video_id": item["video_id"]}
        thread = _ask(client, world, log, who, at_ms + place * 1000, "comments", body)
        for rank, comment in enumerate(thread["items"]):
            own = world.catalogue.tone_C[int(comment["comment_id"][1:])] == tone
            if comment_luck_SK[place, rank] > _chance(3.0 * own - 2.0):
                continue
            read = {"type": "comment_view", "comment_id": comment["comment_id"]}
            read["watch_time_ms"] = int(1000 * seconds_SK[place, rank] * factor)
            read["recommendation_id"] = thread["recommendation_id"]
            done.append({**read, "timestamp": at_ms + place * 1000 + 10 + rank})
    for index, event in enumerate(done):
        event |= {"user_id": f"{arm}/{user}", "event_id": f"{arm}/{user}/{at_ms}/{index}"}
    if done:
        accepted = client.post("/events", {"events": done})["accepted"]
        if accepted != len(done):
            raise RuntimeError(f"{accepted} of {len(done)} events were accepted")
    log.events += done


def _ask(
    client: Client,
    world: World,
    log: Log,
    who: tuple[str, str, str],
    at_ms: int,
    kind: str,
    body: Row,
) -> Row:
    """Ask as the arm does, and write the exposure down."""
    arm, shows, user = who
    body["user_id"] = f"{arm}/{user}"
    if shows != "model":
        body["history"] = _shortened(world.histories[user], shows)
    if kind == "videos":
        seen = [row["video_id"] for row in world.histories[user]["videos"]]
        body["exclude"] = {"video_ids": sorted(set(seen))}
    started_s = time.perf_counter()
    answer = client.post(f"/recommend/{kind}", body)
    latency_ms = 1000 * (time.perf_counter() - started_s)
    items = [item[f"{kind[:-1]}_id"] for item in answer["items"]]
    log.exposures.append(
        {
            "recommendation_id": answer["recommendation_id"],
            "unit_id": None,
            "user_id": user,
            "timestamp": at_ms,
            "experiment": "simulation",
            "arm": arm,
            "model_version": f"{answer['model']['version']} ({shows})",
            "endpoint": kind,
            "video_ids": items if kind == "videos" else [],
            "comment_ids": items if kind == "comments" else [],
            "latency_ms": latency_ms,
            "degraded": answer["degraded"],
        }
    )
    return answer


def _shortened(history: dict[str, list[Row]], shows: str) -> dict[str, list[Row]]:
    """What an arm that knows less is told: nothing, or the videos alone."""
    if shows == "popular":
        return {"videos": [], "comments": []}
    videos = history["videos"][-HISTORY:]
    keys = ("video_id", "timestamp")
    return {"videos": [{key: row[key] for key in keys} for row in videos], "comments": []}


def _chance(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


def tables_of(world: World, lives: Mapping[str, Log]) -> dict[str, pl.DataFrame]:
    """The log of some lives, by table, as `python -m analysis` reads it.

    Args:
        world: What users did before.
        lives: By the name of the unit; what follows a last `/` is the user.
    """
    shown = [{**row, "user_id": name} for name, log in lives.items() for row in log.exposures]
    tables = {"exposures": pl.DataFrame(shown, schema=EXPOSURES)}
    for side in ("videos", "comments"):
        kind = side[:-1]
        rows = [
            {"watch_time_ms": None, "recommendation_id": None, **event, "user_id": name}
            for name, log in lives.items()
            for event in [*world.histories[name.split("/")[-1]][side], *log.events]
            if event["type"].startswith(kind)
        ]
        columns = [{key: row[key] for key in EVENTS} for row in rows]
        tables[f"{kind}_events"] = pl.DataFrame(columns, schema=EVENTS)
    return tables


def assign(users: Iterable[str], seed: int) -> dict[str, str]:
    """Draw each user's arm."""
    names = list(users)
    is_treated_U = np.random.default_rng([seed, 1]).random(len(names)) < 0.5
    return {
        user: TREATMENT if treated else "control"
        for user, treated in zip(names, is_treated_U, strict=True)
    }


def assign_again(world: World, logs: dict[str, dict[str, Log]], truth: float) -> str:
    """Analyse the same lives under other assignments: how often is the interval right?"""
    lives = {f"{arm}/{user}": log for arm, own in logs.items() for user, log in own.items()}
    tables = tables_of(world, lives)
    events = pl.concat([tables["video_events"], tables["comment_events"]])
    checked = check_tables(tables["exposures"], events, DEFINITION, Path("exposures"))
    rows = build_unit_table(checked, PLAN).units
    metric = next(one for one in OUTCOMES if one.name == DEFINITION.primary_metric)
    counts = Counter[str]()
    for seed in range(ASSIGNMENTS):
        arms = assign(world.histories, seed)
        units = rows.filter(pl.col("unit_id").is_in([f"{arm}/{u}" for u, arm in arms.items()]))
        found = compare(units, metric, control="control", arm=TREATMENT, plan=PLAN)
        counts["differs"] += found.p_fixed_horizon < PLAN.alpha
        if found.lift:
            for kind in ("fixed_horizon", "always_valid"):
                low, high = found.lift.interval(kind)
                counts[kind] += low <= truth <= high
    share = {name: count / ASSIGNMENTS for name, count in counts.items()}
    return (
        f"{ASSIGNMENTS} other assignments of the same lives: the fixed-horizon interval covers the "
        f"truth in {share.get('fixed_horizon', 0):.1%}, the always-valid one in "
        f"{share.get('always_valid', 0):.1%}; p < {PLAN.alpha} in {share.get('differs', 0):.1%}"
    )


def report_on(folder: Path) -> Report:
    """Analyse the tables, and leave definition, plan and page beside them."""
    (folder / "definition.json").write_text(DEFINITION.model_dump_json(indent=2))
    (folder / "plan.json").write_text(PLAN.model_dump_json(indent=2))
    report = build_report(load_tables(folder, DEFINITION), DEFINITION, PLAN)
    (folder / "report.html").write_text(build_page(report), encoding="utf-8")
    return report


def true_lift(logs: dict[str, dict[str, Log]]) -> dict[str, float]:
    """The lift over all users' both lives: what the experiment tries to estimate."""
    totals = {arm: Counter[str]() for arm in logs}
    for arm, lives in logs.items():
        for log in lives.values():
            for event in log.events:
                side = event["type"].split("_")[0]
                totals[arm][f"{side}_watch_time_ms"] += event["watch_time_ms"]
                totals[arm][f"{side}_events"] += 1
    control, treatment = totals["control"], totals[TREATMENT]
    return {name: treatment[name] / control[name] - 1 for name in sorted(control)}


def tell(report: Report, truth: dict[str, float]) -> None:
    """Print the verdict, and each metric's truth beside what was estimated."""
    for verdict in report.verdicts:
        print(verdict.text)
    print(f"\n{'metric':24}{'truth':>9}{'found':>9}   fixed-horizon      always valid")
    for one in report.outcomes:
        if one.metric in truth and one.lift:
            found = f"{truth[one.metric]:>+9.1%}{one.lift.value:>+9.1%}   {_bounds(one.lift)}"
            print(f"{one.metric:24}{found}")


def _bounds(lift: Estimate) -> str:
    pairs = (lift.fixed_horizon, lift.always_valid)
    return "   ".join(f"{low:+.1%} … {high:+.1%}" for low, high in pairs)


if __name__ == "__main__":
    main()
