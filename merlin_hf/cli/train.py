"""`merlin-hf train`."""

import argparse
import sys

from .accelerate_configs import accelerate_config


MODULE = "merlin_hf.scripts.text_classification"


def train(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Train in this process, or in those that accelerate starts."""
    launcher = [
        f"--{name}={value}"
        for name in ("num_processes", "main_process_port")
        if (value := getattr(arguments, name)) is not None
    ]
    if arguments.help or (arguments.accelerate_config is None and not launcher):
        from ..scripts.text_classification import main as train_here

        return train_here(rest)

    from accelerate.commands.launch import launch_command, launch_command_parser

    try:
        if arguments.accelerate_config is not None:
            launcher.append(f"--config_file={accelerate_config(arguments.accelerate_config)}")
    except ValueError as error:
        sys.exit(f"merlin-hf train: {error}")
    launch_command(launch_command_parser().parse_args([*launcher, "--module", MODULE, *rest]))
