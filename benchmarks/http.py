"""Requests a second of the whole service against a bare FastAPI app on the same cores.

Both are loaded in turn by `wrk` (a closed loop), round after round; bodies name random users with
stored histories and ask for 20 videos. Then the service alone gets more than it can do, in an open
loop whose requests don't wait for one another.
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.invented_bundle import add_size_arguments, registry_of
from benchmarks.results_file import spread, write_results
from benchmarks.service_process import USERS, fill_store, running_bare_app, running_service

SCRIPT = """
local number = {seed}
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
  number = (number * 1103515245 + 12345) % 2147483648
  return wrk.format(nil, nil, nil, '{{"user_id": "user-' .. (number % {users}) .. '", "k": 20}}')
end
done = function(summary, latency, requests)
  io.write("bad " .. (summary.errors.status + summary.errors.timeout) .. "\\n")
  io.write("p50 " .. latency:percentile(50) .. " p99 " .. latency:percentile(99) .. "\\n")
end
"""


@dataclass
class Loaded:
    """What an open loop saw."""

    offered_per_s: float
    seconds: float
    latency_ms: dict[int, list[float]] = field(default_factory=dict)
    lacks_retry_after: int = 0

    def describe(self) -> dict[str, object]:
        """Goodput and latencies by status; status 0 is a connection that failed."""
        counts = Counter({status: len(values) for status, values in self.latency_ms.items()})
        row: dict[str, object] = {
            "offered_per_s": round(self.offered_per_s),
            "goodput_per_s": round(counts[200] / self.seconds),
            "by_status": dict(counts),
            "lacks_retry_after": self.lacks_retry_after,
        }
        for status, values in self.latency_ms.items():
            if len(values) >= 100:
                cuts = statistics.quantiles(values, n=100)
                row[f"ms_{status}"] = {"p50": round(cuts[49], 2), "p99": round(cuts[98], 2)}
        return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_size_arguments(parser)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--overload", type=float, nargs="*", default=[0.8, 1.5, 5.0])
    args = parser.parse_args()

    registry = registry_of(args.work, args.videos)
    found: dict[str, list[dict[str, float]]] = {"bare FastAPI": [], "service": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_bare_app(Path(folder), workers=args.workers) as bare,
        running_service(registry, Path(folder, "store"), workers=args.workers) as service,
    ):
        fill_store(service, registry)
        for round_number in range(args.rounds):
            for name, port in (("bare FastAPI", bare), ("service", service)):
                found[name].append(run_wrk(Path(folder), port, args, seed=round_number + 1))
        peak = statistics.median(row["requests_per_s"] for row in found["service"])
        overload = [
            asyncio.run(open_loop(service, peak * factor, args.seconds)).describe()
            for factor in args.overload
        ]
    rows = {
        name: {key: spread([row[key] for row in rounds]) for key in rounds[0]}
        for name, rounds in found.items()
    }
    ratios = [
        mine["requests_per_s"] / bare_row["requests_per_s"]
        for mine, bare_row in zip(found["service"], found["bare FastAPI"], strict=True)
    ]
    for name, row in rows.items():
        per_s = row["requests_per_s"]
        print(
            f"{name:14} {per_s['median']:>8,.0f} requests/s ({per_s['smallest']:,.0f} to "
            f"{per_s['largest']:,.0f})  p50 {row['p50_ms']['median']:.1f} ms  "
            f"p99 {row['p99_ms']['median']:.1f} ms  bad {row['bad']['largest']:.0f}"
        )
    print(f"of bare FastAPI: {statistics.median(ratios):.2f}")
    for described in overload:
        print(json.dumps(described))
    write_results(
        args.out,
        {
            "videos": args.videos,
            "workers": args.workers,
            "connections": args.connections,
            "closed_loop": rows,
            "of_bare_fastapi": spread(ratios, digits=3),
            "open_loop": overload,
        },
    )


def run_wrk(folder: Path, port: int, args: argparse.Namespace, *, seed: int) -> dict[str, float]:
    """One round of `wrk` on one thread."""
    script = folder / "recommend.lua"
    script.write_text(SCRIPT.format(seed=seed, users=USERS))
    command = ["wrk", "-t1", f"-c{args.connections}", f"-d{args.seconds}s", "-s", str(script)]
    said = subprocess.run(
        [*command, f"http://127.0.0.1:{port}/recommend/videos"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    per_s = re.search(r"Requests/sec:\s+([\d.]+)", said)
    bad = re.search(r"^bad (\d+)", said, re.MULTILINE)
    times = re.search(r"^p50 ([\d.]+) p99 ([\d.]+)", said, re.MULTILINE)
    assert per_s and bad and times, said
    return {
        "requests_per_s": float(per_s[1]),
        "p50_ms": float(times[1]) / 1000,
        "p99_ms": float(times[2]) / 1000,
        "bad": float(bad[1]),
    }


async def open_loop(port: int, per_s: float, seconds: float) -> Loaded:
    """Send requests at their times, whatever became of those before; connections are reused."""
    loaded = Loaded(per_s, seconds)
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask() -> None:
        body = f'{{"user_id": "user-{random.randrange(USERS)}", "k": 20}}'.encode()
        head = f"POST /recommend/videos HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        started_s = time.perf_counter()
        status = 0
        try:
            reader, writer = (
                idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
            )
            writer.write(head.encode() + body)
            answered = (await reader.readuntil(b"\r\n\r\n")).lower()
            status = int(answered[9:12])
            length = re.search(rb"content-length: (\d+)", answered)
            await reader.readexactly(int(length[1]) if length else 0)
            if status == 503 and b"retry-after" not in answered:
                loaded.lacks_retry_after += 1
            idle.append((reader, writer))
        except (OSError, EOFError):
            status = 0
        took_ms = (time.perf_counter() - started_s) * 1000
        loaded.latency_ms.setdefault(status, []).append(took_ms)

    begun_s = time.perf_counter()
    tasks: set[asyncio.Task[None]] = set()
    sent = 0
    while (passed_s := time.perf_counter() - begun_s) < seconds:
        for _ in range(int(passed_s * per_s) - sent):
            task = asyncio.create_task(ask())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0.001)
    loaded.offered_per_s = sent / seconds
    await asyncio.gather(*tasks)
    for _, writer in idle:
        writer.close()
    return loaded


if __name__ == "__main__":
    main()
