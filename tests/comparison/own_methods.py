"""Methods of a user, which kill their process or fail, in a module that workers import."""

import os
import signal
from pathlib import Path

from merlin_hf.methods import FinetuneTrainer


class MortalTrainer(FinetuneTrainer):
    """Kills its process in the middle of the run of seed 1, once."""

    def compute_loss(self, *args, **kwargs):
        mark = Path(os.environ["MORTAL_MARK"])
        if self.args.seed == 1 and self.state.global_step == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().compute_loss(*args, **kwargs)


class LucklessTrainer(FinetuneTrainer):
    """Fails in its second step."""

    def compute_loss(self, *args, **kwargs):
        if self.state.global_step == 1:
            raise RuntimeError("Out of luck. And more")
        return super().compute_loss(*args, **kwargs)
