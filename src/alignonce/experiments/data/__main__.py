"""`python -m alignonce.experiments.data` prepares Fashion-MNIST and says where it came from."""

import argparse
import sys

from alignonce.experiments.data.image_data import DataUnavailable
from alignonce.experiments.data.loading import load_data
from alignonce.experiments.data.source import DataSource


def main(arguments: list[str] | None = None) -> int:
    """Prepare data and print where they came from.

    Args:
        arguments: The command line; by default the process's.

    Returns:
        The exit status: 0, or 1 with the reason on standard error.
    """
    parser = argparse.ArgumentParser(prog="python -m alignonce.experiments.data", description="Prepare data.")
    parser.add_argument("name", nargs="?", default="fashion-mnist", help="as for load_data")
    try:
        data = load_data(parser.parse_args(arguments).name, DataSource(or_digits=True))
    except (ValueError, DataUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{data.name}: {data.source}")
    print(
        f"{len(data.train_images)} training and {len(data.test_images)} test images "
        f"of shape {data.image_shape}, {data.num_classes} classes"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
