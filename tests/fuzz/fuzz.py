"""Fuzz one target, guided by coverage: python tests/fuzz/fuzz.py TARGET SECONDS [-seed=1]. Needs atheris."""

import sys

import atheris

with atheris.instrument_imports(include=["alignonce.experiments", "pydantic"]):
    import targets


def main() -> None:
    """Until the time is over; libFuzzer ends the process with an error at a crash, a hang or 2 GB."""
    name, seconds, *others = sys.argv[1:]
    limits = [
        f"-max_total_time={seconds}",
        "-timeout=5",
        "-rss_limit_mb=2048",
        "-max_len=400",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *limits, *others], lambda content: targets.run(name, content))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
