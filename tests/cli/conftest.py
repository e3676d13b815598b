"""Running a command as a shell does, on tiny models and files."""

import pytest
from transformers import AutoImageProcessor

from merlin_hf.cli import main as cli


@pytest.fixture
def image_processors():
    """Skips a test of commands for images in the oldest supported version of transformers."""
    if getattr(AutoImageProcessor, "is_dummy", False):
        pytest.skip("AutoImageProcessor of transformers 5.10 needs torchvision")


@pytest.fixture
def run(capsys):
    """Runs `merlin-hf` with arguments; returns the exit status, stdout and stderr."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            cli.main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return done.value.code or 0, shown.out, shown.err

    return run
