"""`python -m bench [entry …]`: runs the entries, prints what they found beside what is claimed."""

import argparse
import importlib
import json
import sys

from bench.harness import Plan, Report, as_dict, as_text, say
from bench.programs import BenchFailed

ENTRIES = (
    "read",
    "start",
    "memory",
    "audit",
    "imports",
    "sign_in",
    "strangers",
    "crowd",
    "identify",
    "search",
    "charges",
    "charges_http",
    "ledger",
    "usage_ingest",
    "usage_summary",
    "verify",
    "verify_key",
    "webhooks",
    "payments_summary",
)
QUICK = Plan(rounds=1, seconds=1, quick=True)


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    standard = QUICK if given.quick else Plan()
    plan = Plan(given.rounds or standard.rounds, given.seconds or standard.seconds, given.quick)
    try:
        reports = [run(entry, plan) for entry in given.entries or ENTRIES]
    except BenchFailed as error:
        say(f"bench: {error}")
        return 1
    show(reports, as_json=given.json)
    return exit_code(reports, strict=given.strict)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("entries", nargs="*", metavar="entry", help=", ".join(ENTRIES))
    parser.add_argument("--rounds", type=positive(int), help="of each contender, in turn")
    parser.add_argument("--seconds", type=positive(float), help="of load in each round")
    parser.add_argument("--quick", action="store_true", help="one short round: does it work?")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed")
    given = parser.parse_args(arguments)
    for entry in given.entries:
        if entry not in ENTRIES:
            parser.error(f"there is no entry {entry}; there are: {', '.join(ENTRIES)}")
    return given


class positive:  # noqa: N801 - reads as a type where it is used
    """A number above zero."""

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind

    def __call__(self, text: str) -> float:
        number = self.kind(text)
        if number <= 0:
            raise argparse.ArgumentTypeError("must be more than 0")
        return number


def run(entry: str, plan: Plan) -> Report:
    say(f"{entry} …")
    report: Report = importlib.import_module(f"bench.{entry}").run(plan)
    return report


def exit_code(reports: list[Report], *, strict: bool) -> int:
    """A target that is missed on a busy machine is news, and an error only where asked for."""
    return int(strict and not all(report.reached for report in reports))


def show(reports: list[Report], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([as_dict(report) for report in reports], indent=2))
    else:
        print("\n\n".join(as_text(report) for report in reports))


if __name__ == "__main__":
    sys.exit(main())
