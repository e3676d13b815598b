"""`merlin-hf COMMAND ...`."""

import argparse
import sys

from .accelerate_configs import NAMES
from .compare import add_compare_parser, compare
from .publish import add_publish_parser, publish
from .train import train


def main(argv: list[str] | None = None) -> None:
    """Run a command; what it does not know itself goes to the program it starts."""
    parser = argparse.ArgumentParser(prog="merlin-hf", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train_parser = commands.add_parser(
        "train",
        add_help=False,
        allow_abbrev=False,
        help="train a text classifier on a small target with a large source",
    )
    train_parser.add_argument("-h", "--help", action="store_true")
    train_parser.add_argument(
        "--accelerate_config", help=f"start it by accelerate: {', '.join(NAMES)}, or a file of `accelerate config`"
    )
    train_parser.add_argument("--num_processes", help="how many processes, where the configuration says otherwise")
    train_parser.add_argument("--main_process_port", help="port that the processes meet at; 0 for a free one")
    add_compare_parser(commands)
    add_publish_parser(commands)
    arguments, rest = parser.parse_known_args(argv)
    run = {"compare": compare, "publish": publish}.get(arguments.command)
    if run is not None:
        sys.exit(run(arguments, rest))
    if arguments.help:
        train_parser.print_help()
        print("\nand those of the training program:\n", flush=True)
        rest = ["--help"]
    train(arguments, rest)


if __name__ == "__main__":
    main()
