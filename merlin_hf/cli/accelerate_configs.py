"""The configurations of accelerate that come with the package."""

import difflib
from pathlib import Path


FOLDER = Path(__file__).parents[1] / "accelerate_configs"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def accelerate_config(name_or_path: str) -> str:
    """
    The path of a configuration for `accelerate launch --config_file`.

    Args:
        name_or_path (`str`): one of `NAMES`, or a file.

    Raises:
        ValueError: it is neither; the message lists the names.
    """
    if name_or_path in NAMES:
        return str(FOLDER / f"{name_or_path}.yaml")
    if Path(name_or_path).is_file():
        return name_or_path
    close = difflib.get_close_matches(name_or_path, NAMES, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"`--accelerate_config {name_or_path}` is no file.{hint} Or one of: {', '.join(NAMES)}.")
