"""`python -m analysis export|report|shadow|power`: logs, what they say, what a test takes."""

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from analysis.definition import Definition, Plan, load_json
from lsvcr.errors import LsvcrError

# Each command imports what it takes: scipy alone costs the others a second and a half.


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 1 with an error on stderr."""
    args = build_parser().parse_args(arguments)
    try:
        args.run(args)
    except LsvcrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _export(args: argparse.Namespace) -> None:
    from analysis.log_export import connect, export_log

    with connect(args.redis) as redis:
        done = export_log(redis, args.out, since_ms=args.since, base=args.base)
    for table, rows in done.added.items():
        print(f"{table}: {rows:,} new rows")
    if done.left_out:
        print(f"left out: {done.left_out:,} events on items that {args.out} doesn't know")
    if done.lost:
        print(
            f"warning: the store had dropped {done.lost:,} entries before they were read: export "
            "more often, or raise its limits",
            file=sys.stderr,
        )


def _report(args: argparse.Namespace) -> None:
    from analysis.page import build_page
    from analysis.report import build_report
    from analysis.tables import load_tables

    definition = load_json(args.definition, Definition)
    plan = load_json(args.plan, Plan) if args.plan else Plan()
    report = build_report(load_tables(args.exposures, definition), definition, plan)
    if args.out:
        beside = args.out.with_name(f".{args.out.name}.partial")
        beside.write_text(build_page(report), encoding="utf-8")
        os.replace(beside, args.out)
    if args.json:
        print(report.model_dump_json(indent=2))
        return
    for arm in report.arms:
        print(f"{arm.arm}: {arm.units:,} units, {arm.exposures:,} answers")
    for verdict in report.verdicts:
        print(f"\n{verdict.text}")


def _shadow(args: argparse.Namespace) -> None:
    from analysis.shadow import compare_shadows

    for one in compare_shadows(args.exposures, args.experiment):
        if args.json:
            print(one.model_dump_json())
            continue
        same = "" if one.overlap is None else f", {100 * one.overlap:.3g} % of the items the same"
        print(f"{one.arm}: {one.answers:,} answers beside those shown{same}")
        if one.same_first is not None:
            print(f"  the first item is the same in {100 * one.same_first:.3g} %")
        print(f"  latency {one.latency_ms:.3g} ms on average ({one.shown_latency_ms:.3g} shown)")
        print(f"  empty {100 * one.empty:.3g} % ({100 * one.shown_empty:.3g} % shown)")
        print(f"  degraded {100 * one.degraded:.3g} % ({100 * one.shown_degraded:.3g} % shown)")


def _power(args: argparse.Namespace) -> None:
    from analysis.power import units_needed

    for lift in args.lift:
        need = units_needed(
            lift,
            mean=args.mean,
            deviation=args.sd,
            alpha=args.alpha,
            power=args.power,
            control_share=args.control_share,
            variance_kept=args.variance_kept,
            units_per_day=args.units_per_day,
        )
        days = "" if need.days is None else f", {need.days:,} days"
        print(f"lift {need.lift:+.2%}: {need.units:,} units in both arms together{days}")


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    export = commands.add_parser("export", help="add what is new in the service's logs to tables")
    export.add_argument(
        "--redis",
        default=os.environ.get("LSVCR_REDIS"),
        required="LSVCR_REDIS" not in os.environ,
        metavar="URL",
        help="the service's store; default: the variable LSVCR_REDIS",
    )
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of tables")
    export.add_argument(
        "--since",
        type=_moment_ms,
        default=0,
        help="day or time (UTC) that a new folder begins with",
    )
    export.add_argument(
        "--base", type=Path, metavar="DIR", help="dataset folder that a new folder begins with"
    )
    export.set_defaults(run=_export)

    report = commands.add_parser("report", help="compare the arms of an experiment")
    report.add_argument(
        "--exposures", type=Path, required=True, metavar="DIR", help="folder of exported tables"
    )
    report.add_argument("--definition", type=Path, required=True, help="the experiment, as JSON")
    report.add_argument("--plan", type=Path, help="how to analyse it, as JSON")
    report.add_argument("--out", type=Path, metavar="FILE", help="write the HTML page there")
    report.add_argument("--json", action="store_true", help="print all figures as JSON")
    report.set_defaults(run=_report)

    shadow = commands.add_parser("shadow", help="compare shadow arms with what was shown")
    shadow.add_argument(
        "--exposures", type=Path, required=True, metavar="DIR", help="folder of exported tables"
    )
    shadow.add_argument("--experiment", required=True, metavar="NAME")
    shadow.add_argument("--json", action="store_true", help="print figures as JSON, a line an arm")
    shadow.set_defaults(run=_shadow)

    power = commands.add_parser("power", help="how many units and days an experiment needs")
    power.add_argument("--mean", type=_positive, required=True, help="of the metric per unit")
    power.add_argument("--sd", type=_positive, required=True, help="its standard deviation")
    power.add_argument(
        "--lift", type=_positive, nargs="+", required=True, help="relative, such as 0.02"
    )
    power.add_argument("--alpha", type=_share, default=0.05, help="default: %(default)s")
    power.add_argument("--power", type=_share, default=0.8, help="default: %(default)s")
    power.add_argument("--control-share", type=_share, default=0.5, help="default: %(default)s")
    power.add_argument(
        "--variance-kept", type=_share, default=1.0, help="what CUPED leaves, from a report"
    )
    power.add_argument("--units-per-day", type=_positive, help="new units a day: tells the days")
    power.set_defaults(run=_power)
    return parser


def _moment_ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is no time, such as 2026-11-25T12:00") from error
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
