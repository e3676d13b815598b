"""`merlin-hf publish`: put a model on the Hub."""

import argparse
import contextlib
import os
import sys
from typing import Any

from ..utils.exit_status import FAILURE, fail
from ..utils.files import to_json
from ..utils.markdown import visible


def add_publish_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "publish",
        allow_abbrev=False,
        description="Put the model in FOLDER on the Hub, with its tokenizer or processor and a card. Only files of a "
        "model are sent: no training states, no pickles such as training_args.bin, no code. FOLDER is not changed. "
        "The token is that of `hf auth login` or HF_TOKEN. Exit status: 0 if done, 1 if the Hub did not take it, 2 "
        "if there is nothing to send.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="what `save_model` or `save_pretrained` wrote")
    parser.add_argument("repo", metavar="REPO", help="user/name, or name for your own")
    parser.add_argument("--private", action="store_true", help="make it a private repository")
    parser.add_argument("--license", help="for the card, such as apache-2.0; none is stated otherwise")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--update", action="store_true", help="put it on top of the model that REPO already has")
    parser.add_argument("--token_env", metavar="NAME", help="environment variable with the token, if not HF_TOKEN")
    parser.add_argument("--dry_run", action="store_true", help="show the files and the card, and send nothing")
    parser.add_argument("--json", action="store_true", help="print the URL, the commit and the files as JSON")
    return parser


def publish(arguments: argparse.Namespace) -> int:
    """Publish a model, or show what would be sent; return the exit status."""
    token = None
    if arguments.token_env is not None:
        token = os.environ.get(arguments.token_env)
        if not token:
            return fail("publish", f"the environment variable {arguments.token_env} (`--token_env`) is not set")
    # With `--json`, nothing else must get to a program that reads it.
    with contextlib.redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        status, summary = _publish(arguments, token)
    if arguments.json and summary is not None:
        print(to_json(summary, indent=2))
    return status


def _publish(arguments: argparse.Namespace, token: str | None) -> tuple[int, dict[str, Any] | None]:
    """Return the exit status, and what was or would be sent."""
    from ..hub.errors import PublishError
    from ..hub.publish import plan_of, publish_folder

    plan = plan_of(arguments.folder, arguments.repo, arguments.license)
    show(plan, arguments.repo)
    if arguments.dry_run:
        if not arguments.json:
            print(f"\n{plan.card}", end="")
        nowhere = {"repo": arguments.repo, "url": None, "commit": None, "commit_url": None}
        return 0, {**nowhere, **contents_of(plan), "card": plan.card}
    try:
        commit = publish_folder(
            arguments.folder,
            arguments.repo,
            private=arguments.private,
            license=arguments.license,
            message=arguments.message,
            update=arguments.update,
            token=token,
        )
    except PublishError as error:
        return fail("publish", error, FAILURE), None
    print(f"Published: {commit.commit_url}")
    repo = commit.repo_url.repo_id  # with its owner, where the name had none
    where = {"repo": repo, "url": str(commit.repo_url), "commit": commit.oid, "commit_url": commit.commit_url}
    return 0, {**where, **contents_of(plan_of(arguments.folder, repo, arguments.license))}


def contents_of(plan: Any) -> dict[str, Any]:
    """Return the files with their sizes in bytes, the sum of the sizes, and what is left out with the reasons."""
    return {"files": plan.files, "size": sum(plan.files.values()), "left_out": plan.left_out}


def show(plan: Any, repo: str) -> None:
    """Print the files with their sizes, and what is left out."""
    print(f"For {repo}:")
    width = max(map(len, plan.files))
    for name, size in plan.files.items():
        print(f"  {name:<{width}}  {format_size(size):>9}")
    for name, reason in plan.left_out.items():
        print(f"Left out: {visible(name)} ({reason})")
    if not plan.has_processor:
        print("There is no tokenizer or processor, without which `pipeline` does not work; save it into the folder.")


def format_size(size: int) -> str:
    """Return a size in bytes as people read it, such as `1.2 MB`."""
    if size < 1000:
        return f"{size} B"
    number, units = size / 1000, ["kB", "MB", "GB"]
    while number >= 1000 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.1f} {units[0]}"
