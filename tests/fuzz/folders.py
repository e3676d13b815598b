"""
Damage and forge folders of saved models, and run the commands that read them.

Each round changes one file of a folder of a text, image, sharded or adapter model. Then `evaluate`,
`publish --dry_run`, `report` and, for texts, `train --dry_run` run on it, each in a process of its own. Counted are
tracebacks, errors that no command foresees, ends by a signal, runs over the time limit, secrets that would be sent,
and code that was run. The exit status is 1 if anything was counted.

    python -m tests.fuzz.folders --rounds 100 --seed 0
"""

import argparse
import collections
import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")

LIMIT = 10  # seconds of a process
WAIT = 60  # seconds by the clock, on a machine that has others to serve
MEMORY = 4 << 30  # bytes more than at the start
SECRET = b"s3cr3t-0f-th15-m4ch1n3"
INDEX = "model.safetensors.index.json"
# In place of a value in a JSON file.
VALUES = [
    None, True, -1, 0, 1, 10**7, 10**9, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "x", "x" * 10**6, "../..",
    "/etc/passwd",
    "(a+)+$", "(.*)*x", "<script>\n# a", "\x00", [], [0], [10**9], {}, {"a": 1}, ["a"] * 1000, "bfloat16", "os.system",
]  # fmt: skip
SIZES = (
    "num_labels", "num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "num_attention_heads",
    "max_position_embeddings", "type_vocab_size", "image_size", "patch_size", "num_channels",
)  # fmt: skip
OTHER_FILES = (
    "vocab.pkl", "vocabulary.pt", "my.model", "LICENSE_KEY.pem", "chat_template.env", ".env", ".hidden.model",
    "notes.txt",
    "modeling_x.py", "model-00001-of-00001.safetensors", "optimizer.pt", "training_args.bin", "tokenizer_key.json",
)  # fmt: skip


class Payload:
    """Makes a file where it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


# The folders


def make_bases(work: Path) -> dict[str, tuple[Path, list[str]]]:
    """Return folders of models by kind, with the arguments of `evaluate` that name their data."""
    import numpy as np
    from peft import LoraConfig, get_peft_model
    from PIL import Image
    from transformers import ViTImageProcessorPil

    from tests.hub.conftest import tiny_tokenizer
    from tests.tiny import TINY_CLASSIFIERS, tiny_bert

    names = {"id2label": {0: "bad", 1: "good", 2: "plain"}, "label2id": {"bad": 0, "good": 1, "plain": 2}}
    rows = [
        f"the film w{row} is {('bad', 'good', 'plain')[row % 3]},{('bad', 'good', 'plain')[row % 3]}"
        for row in range(12)
    ]
    (work / "rows.csv").write_text("text,label\n" + "\n".join(rows))
    texts = ["--validation_file", str(work / "rows.csv"), "--max_seq_length", "16"]
    log = [{"step": step, "loss": 1 / step, "epoch": step / 2} for step in (1, 2)]
    log.append({"step": 2, "epoch": 1.0, "eval_loss": 0.5, "eval_accuracy": 0.75})
    bases = {}
    for kind in ("text", "shards", "adapter", "image"):
        folder = work / "bases" / kind
        if kind == "adapter":
            tiny_bert(**names).save_pretrained(work / "base")
            tiny_tokenizer().save_pretrained(work / "base")
            model = get_peft_model(tiny_bert(**names), LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
            model.peft_config["default"].base_model_name_or_path = str(work / "base")
            model.save_pretrained(folder)
        elif kind == "image":
            TINY_CLASSIFIERS["vit"]().save_pretrained(folder)
            ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
            for name in ("LABEL_0", "LABEL_1", "LABEL_2"):
                (work / "images" / name).mkdir(parents=True)
                for number in range(2):
                    pixels = np.full((32, 32, 3), 40 * number, np.uint8)
                    Image.fromarray(pixels).save(work / "images" / name / f"{number}.png")
        else:
            tiny_bert(**names).save_pretrained(folder, max_shard_size="20KB" if kind == "shards" else "1GB")
        if kind != "image":
            tiny_tokenizer().save_pretrained(folder)
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": log, "global_step": 2}))
        (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# A model\n")
        bases[kind] = folder, ["--validation_dir", str(work / "images")] if kind == "image" else texts
    (work / "private").mkdir()
    (work / "private" / "key.json").write_text(json.dumps({"key": SECRET.decode()}))
    return bases


# Mutations: each changes a folder and says what it did.


def some_file(folder: Path, rng: random.Random, suffix: str = "") -> Path:
    return rng.choice(sorted(path for path in folder.rglob(f"*{suffix}") if path.is_file()))


def cut(folder: Path, rng: random.Random, work: Path) -> str:
    path = some_file(folder, rng)
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(max(len(content), 1))])
    return f"{path.name} cut"


def garble(folder: Path, rng: random.Random, work: Path) -> str:
    path = some_file(folder, rng)
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 8, 200))):
        # In weights, the header is what is read first.
        content[rng.randrange(min(len(content), 2000))] = rng.randrange(256)
    path.write_bytes(content)
    return f"{path.name} garbled"


def replace(folder: Path, rng: random.Random, work: Path) -> str:
    path = some_file(folder, rng)
    protocol = rng.randrange(6)
    kinds = {
        "nothing": b"",
        "noise": rng.randbytes(rng.choice((1, 100, 10_000))),
        f"a pickle of protocol {protocol}": pickle.dumps(Payload(work / "marker"), protocol),
        "a list": b"[]",
        "null": b"null",
        "a number": b"1" * rng.choice((1, 10_000)),
        "deep JSON": b"[" * 200_000,
        "a key": SECRET,
    }
    kind = rng.choice(sorted(kinds))
    if kind != "a key":  # of a model's file, a text is what the user wrote
        path.write_bytes(kinds[kind])
    return f"{path.name} is {kind}"


def odd_file(folder: Path, rng: random.Random, work: Path) -> str:
    path = some_file(folder, rng)
    kind = rng.choice(("missing", "a folder", "a pipe", "a link out", "a link to itself", "a device"))
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind != "missing":
        targets = {"a link out": work / "private" / "key.json", "a link to itself": path, "a device": "/dev/zero"}
        path.symlink_to(targets[kind])
    return f"{path.name} is {kind}"


def places(value: Any, at: tuple = ()) -> list[tuple]:
    """Return the paths to all values within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, one in inner for place in places(one, (*at, key)))]


def change_json(path: Path, place: tuple, value: Any) -> None:
    content = json.loads(path.read_text())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(content))


def change_value(folder: Path, rng: random.Random, work: Path) -> str:
    path = some_file(folder, rng, ".json")
    place = rng.choice([place for place in places(json.loads(path.read_text())) if place])
    value = rng.choice(VALUES)
    change_json(path, place, value)
    return f"{path.name} {'.'.join(map(str, place))} = {repr(value)[:40]}"


def absurd_size(folder: Path, rng: random.Random, work: Path) -> str:
    name, value = rng.choice(SIZES), rng.choice((0, -1, 10**5, 10**7, 10**9, 10**18, 10**400, 2.5))
    path = folder / "config.json"
    if not path.exists():
        path, name = folder / "adapter_config.json", rng.choice(("r", "lora_alpha"))
    change_json(path, (name,), value)
    return f"{path.name} {name} = {repr(value)[:40]}"


def with_code(folder: Path, rng: random.Random, work: Path) -> str:
    (folder / "evil.py").write_text(f"open({str(work / 'marker')!r}, 'w')\nclass Evil: pass\n")
    paths = [
        path
        for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json")
        if (path := folder / name).exists()
    ]
    path = rng.choice(paths)
    classes = (
        "AutoConfig",
        "AutoModelForSequenceClassification",
        "AutoTokenizer",
        "AutoImageProcessor",
        "AutoModelForImageClassification",
    )
    change_json(path, ("auto_map",), dict.fromkeys(classes, "evil.Evil"))
    if rng.random() < 0.5:
        change_json(path, (rng.choice(("model_type", "tokenizer_class", "image_processor_type")),), "evil")
    return f"{path.name} with code"


def pickled_weights(folder: Path, rng: random.Random, work: Path) -> str:
    import torch

    for path in folder.glob("*.safetensors*"):
        path.unlink()
    name = "adapter_model.bin" if (folder / "adapter_config.json").exists() else "pytorch_model.bin"
    torch.save({"a": Payload(work / "marker")}, folder / name)
    return f"{name} in place of weights"


def forge_header(folder: Path, rng: random.Random, work: Path) -> str:
    path = some_file(folder, rng, ".safetensors")
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    name = rng.choice([name for name in header if name != "__metadata__"])
    kind = rng.choice(("length", "dtype", "shape", "offsets", "absent", "metadata", "name"))
    if kind == "dtype":
        header[name]["dtype"] = rng.choice(("I8", "BF16", "F7", None, 3))
    elif kind == "shape":
        header[name]["shape"] = rng.choice(([2**62, 4], [-1], [], [10**9, 10**9], "x"))
    elif kind == "offsets":
        header[name]["data_offsets"] = rng.choice(([0, 0], [8, 4], [0, 2**63], [-4, 4]))
    elif kind == "absent":
        del header[name]
    elif kind == "metadata":
        header["__metadata__"] = rng.choice(({"format": "tf"}, {"format": "\x00"}, {"a": "x" * 10**6}, 3))
    elif kind == "name":
        header["../" + name] = header.pop(name)
    text = json.dumps(header).encode()
    length = rng.choice((0, 2**40, 2**63, 3)) if kind == "length" else len(text)
    path.write_bytes(length.to_bytes(8, "little") + text + content[8 + size :])
    return f"{path.name} with another {kind} of {name}"


def not_finite(folder: Path, rng: random.Random, work: Path) -> str:
    import torch
    from safetensors.torch import load_file, save_file

    path = some_file(folder, rng, ".safetensors")
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    tensors[name] = rng.choice((tensors[name] * float("nan"), tensors[name][:0], torch.ones(3, 3, 3)))
    save_file(tensors, path, metadata={"format": "pt"})
    return f"{path.name} with {tuple(tensors[name].shape)} in {name}"


def forge_index(folder: Path, rng: random.Random, work: Path) -> str:
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        return cut(folder, rng, work)
    (folder / "model.safetensors").unlink(missing_ok=True)
    (folder / ".env").write_bytes(SECRET)
    names = (
        "../private/key.json",
        "/etc/passwd",
        ".env",
        str(work / "private" / "key.json"),
        1,
        None,
        ["a"],
        "w.safetensors",
    )
    index = rng.choice(
        ({}, [], None, {"weight_map": 1}, *({"weight_map": {"a": name, "b": weights[0].name}} for name in names))
    )
    (folder / INDEX).write_text(json.dumps(index))
    return f"{INDEX} is {json.dumps(index)[:60]}"


def other_files(folder: Path, rng: random.Random, work: Path) -> str:
    for name in OTHER_FILES:
        (folder / name).write_bytes(SECRET)
    (folder / "additional_chat_templates").symlink_to(work / "private")
    return "other files beside"


def forge_adapter(folder: Path, rng: random.Random, work: Path) -> str:
    path = folder / "adapter_config.json"
    if not path.exists():
        return change_value(folder, rng, work)
    name, value = rng.choice((
        ("target_modules", "(([a-z.0-9]+)+)+Z"), ("target_modules", "("), ("modules_to_save", ["nothing"]), ("r",
        10**9),
        ("rank_pattern", {"(a|a|[a-z.0-9]+)+Z": 10**9}), ("layers_pattern", "(.+)+Z"), ("peft_type", "X"), ("r", -1),
        ("layer_replication", [[0, 10**9]]), ("base_model_name_or_path", "/nowhere"), ("base_model_name_or_path", 3),
        ("auto_mapping", {"parent_library": "os", "base_model_class": "system"}), ("task_type", "X"), ("bias", "X"),
        ("exclude_modules", "(.*)*(.*)*Z"), ("init_lora_weights", "X"), ("unknown_field", 1), ("alpha_pattern",
        {"((.*)*)*Z": 1}),
    ))  # fmt: skip
    change_json(path, (name,), value)
    if name == "layers_pattern":
        change_json(path, ("layers_to_transform",), [0])
    return f"{path.name} {name} = {repr(value)[:40]}"


def forge_card(folder: Path, rng: random.Random, work: Path) -> str:
    aliases = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(30))
    text = rng.choice((
        f"---\n{aliases}\n---\n", "---\na: &a [*a]\n---\n", f"---\na: {'[' * 10_000}\n---\n", "---\n- a\n---\n",
        "---\n1: 2\n---\n",
        "---\n!!python/object/apply:os.system ['true']\n---\n", "---\nmodel-index: 3\n---\n", "---\ntags: 3\n---\n",
        "---\n\x00\n---\n",
        "---\neval_results: 3\nmodel_name: 1\n---\n", "---\nlicense: [[[a]]]\n---\n",
    ))  # fmt: skip
    (folder / "README.md").write_text(text)
    return f"README.md is {text[:30]!r}"


MUTATIONS: list[Callable[[Path, random.Random, Path], str]] = [
    cut, garble, replace, odd_file, change_value, change_value, change_value, absurd_size, with_code, pickled_weights,
    forge_header,
    not_finite, forge_index, other_files, forge_adapter, forge_card,
]  # fmt: skip


# Runs


class Run(NamedTuple):
    """The end of a command: its exit status, negative for a signal, `None` at the time limit; what it printed."""

    status: int | None
    out: str
    err: str


def run(argv: list[str], work: Path) -> Run:
    """Run the command line in a child of this process."""
    out, err = work / "out", work / "err"
    child = os.fork()
    if not child:
        status = 1
        try:
            os.setpgid(0, 0)
            for descriptor, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT + 1))
            sys.stdin, sys.stdout, sys.stderr = (
                open(0),
                open(1, "w", errors="backslashreplace"),
                open(2, "w", errors="backslashreplace"),
            )
            from merlin_hf.cli.main import main

            main(argv)
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    end = time.monotonic() + WAIT
    status = None
    while time.monotonic() < end:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
            status = None if status == -signal.SIGXCPU else status
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return Run(status, out.read_text(errors="replace"), err.read_text(errors="replace"))


def faults(command: str, ended: Run, folder: Path, work: Path) -> list[str]:
    """Return the kinds of faults in the end of a command."""
    found = []
    if ended.status is None:
        found.append("hang")
    elif ended.status not in (0, 1, 2):
        found.append("signal")
    if "Traceback (most recent call last)" in ended.err:
        found.append("traceback")
    elif ended.status == 1:
        found.append("unexpected")  # an error that the command did not know
    if ended.status in (1, 2) and not ended.err.strip():
        found.append("silent")
    if command == "publish" and ended.status == 0:
        sent = json.loads(ended.out)["files"]
        if any(SECRET in path.read_bytes() for name in sent if (path := folder / name).is_file()):
            found.append("secret sent")
    if (work / "marker").exists():
        (work / "marker").unlink()
        found.append("code run")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="show the last line of every message")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="fuzz-folders-"))
    os.environ.update(HF_HOME=str(work / "hf"), HF_DATASETS_CACHE=str(work / "hf" / "datasets"))
    import matplotlib.pyplot  # noqa: F401  # everything is imported once, before the children
    import peft  # noqa: F401
    import torch

    import merlin_hf.cli.evaluate
    import merlin_hf.cli.evaluation
    import merlin_hf.cli.publish
    import merlin_hf.cli.report
    import merlin_hf.cli.saved_model
    import merlin_hf.cli.train
    import merlin_hf.hub.publish
    import merlin_hf.scripts.text_classification  # noqa: F401

    torch.set_num_threads(1)
    counts: collections.Counter[str] = collections.Counter()
    try:
        bases = make_bases(work)
        plain = [(kind, lambda folder, rng, work: "nothing changed") for kind in bases]
        rng = random.Random(arguments.seed)
        drawn = [(rng.choice(sorted(bases)), MUTATIONS[number % len(MUTATIONS)]) for number in range(arguments.rounds)]
        for number, (kind, mutate) in enumerate([*plain, *drawn]):
            base, data = bases[kind]
            folder = Path(shutil.copytree(base, work / "folders" / "model"))
            did = mutate(folder, rng, work)
            commands = {
                "evaluate": ["evaluate", str(folder), *data, "--use_cpu", "--json"],
                "publish": ["publish", str(folder), "me/x", "--dry_run", "--json"],
                "report": ["report", str(folder), "--json"],
            }
            if kind in ("text", "shards"):
                commands["train"] = [
                    "train", "--dry_run", "--model_name_or_path", str(folder), "--train_file", data[1],
                    "--source_train_file", data[1], "--max_steps", "1", "--use_cpu",
                    "--output_dir", str(work / "trained"),
                ]  # fmt: skip
            for command, argv in commands.items():
                ended = run(argv, work)
                found = faults(command, ended, folder, work)
                if number < len(plain) and ended.status != 0:
                    found.append("refused unchanged")
                counts.update(["runs", f"exit {ended.status}", *found])
                if found or arguments.verbose:
                    last = [line for line in ended.err.splitlines() if line.strip()][-1:] or [""]
                    print(
                        f"{number} {command} of {kind}, {did}: {', '.join(found) or ended.status}: {last[0][:200]}",
                        flush=True,
                    )
            shutil.rmtree(work / "folders")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(dict(sorted(counts.items()))))
    return 1 if any(not name.startswith(("exit", "runs")) for name in counts) else 0


if __name__ == "__main__":
    sys.exit(main())
