"""`python -m demo`: data, training, export, service and examples, everything below `.demo/`."""

import argparse
import signal
import sys
import time
from pathlib import Path

from demo.demo_data import load_demo_data
from demo.examples import send_histories, show_examples
from demo.service_process import need_free_port, running_service
from demo.steps import INTERRUPTED, do_step, steps_of
from lsvcr.errors import LsvcrError
from lsvcr_client import Client, ClientError
from lsvcr_client.requests import CheckReady

FOLDER = Path(".demo")


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns the exit code: 0, 1 if a step failed, 130 for Ctrl-C before its end."""
    args = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the service outlives us
    try:
        run_demo(args.port, once=args.once)
    except (LsvcrError, ClientError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on where this one ended", file=sys.stderr)
        return INTERRUPTED
    return 0


def run_demo(port: int, *, once: bool) -> None:
    """All steps; stays up unless `once`.

    Raises:
        DemoError: If a step failed.
    """
    need_free_port(port)
    FOLDER.mkdir(exist_ok=True)
    for step in steps_of(FOLDER):
        do_step(step)
    data = load_demo_data(FOLDER / "data")
    print("\n── Serve it")
    with running_service(FOLDER, port) as client:
        send_histories(client, data)
        show_examples(client, data)
        if not once:
            _stay_up(client)


def _stay_up(client: Client) -> None:
    print(
        f"\nServing until Ctrl-C. Open {client.url} to play with it, {client.url}/docs to read on"
    )
    sys.stdout.flush()
    try:
        while True:
            client.send(CheckReady())
            time.sleep(2)
    except KeyboardInterrupt:
        print("\nstopping", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the examples")
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
