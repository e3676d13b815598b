"""Put a folder with a model on the Hub."""

import os
import re
from pathlib import Path
from typing import NamedTuple

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard, get_token
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import HFValidationError, validate_repo_id

from ..utils.log_history import last_evaluations
from ..utils.markdown import escape
from .card import PLACEHOLDERS, TEXT_CLASSIFICATION, CardContent, hub_name, task_of, write_card
from .content import TAGS
from .errors import PublishError, explained
from .folder import CARD, ModelFolder


DEEPEST_METADATA = 20  # levels
WRITTEN_FOR = re.compile(r"<!-- Written by merlin_hf for (?P<repo_id>\S+?)\. ")
# Files that a repository has before there is a model in it.
NO_MODEL = {".gitattributes", "README.md", "LICENSE"}


class Plan(NamedTuple):
    """
    What would be published.

    Args:
        files (`dict[str, int]`): sizes in bytes, by name.
        left_out (`dict[str, str]`): reasons, by name.
        card (`str`): the content of `README.md`.
        has_processor (`bool`): whether a tokenizer or a processor is among the files.
    """

    files: dict[str, int]
    left_out: dict[str, str]
    card: str
    has_processor: bool


def plan_of(folder: str | os.PathLike, repo_id: str, license: str | None = None) -> Plan:
    """
    List the files that [`publish_folder`] would send. The folder is only read.

    Raises:
        PublishError: the folder has no whole model, or its card cannot be read.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"{str(error).splitlines()[0]} Name the repository like `user/name`.") from error
    model = ModelFolder(folder)
    card = card_of(model, repo_id, license)
    files = {name: (model.path / name).stat().st_size for name in model.files}
    files[CARD] = len(card.encode())
    return Plan(dict(sorted(files.items())), model.left_out, card, model.has_processor)


def publish_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool = False,
    license: str | None = None,
    message: str | None = None,
    update: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
) -> CommitInfo:
    """
    Send the model in a folder to the Hub, with its tokenizer or processor and its card, in one commit.

    The folder is only read. Files of a model are sent, and nothing else that lies there (see
    [`~merlin_hf.hub.folder.model_files`]). Where there is no card, one is written from the files.

    Args:
        folder (`str` or `os.PathLike`): written by `save_model` or `save_pretrained`.
        repo_id (`str`): `user/name`, or `name` for your own.
        private (`bool`): make the repository a private one.
        license (`str`, *optional*): for the card, such as `apache-2.0`.
        message (`str`, *optional*): of the commit.
        update (`bool`): put it on top of the model that a repository already has.
        token (`str`, *optional*): with the role `write`; the one of `hf auth login` or `HF_TOKEN` if not given.
        endpoint (`str`, *optional*): another Hub.

    Returns:
        [`~huggingface_hub.CommitInfo`]: the commit, with its `commit_url`, its `oid` and the repository's `repo_url`.

    Raises:
        PublishError: the model did not get there, the folder has no whole model, or a file in it must not be sent;
            the message says what would work.
    """
    plan = plan_of(folder, repo_id, license)
    api = HfApi(endpoint=endpoint, token=token, library_name="merlin_hf")
    with explained(str(folder), repo_id, token, get_token()):
        user = api.whoami()["name"]
        full_name = repo_id if "/" in repo_id else f"{user}/{repo_id}"
        _check_repository(api, full_name, private, update)
        full_name = api.create_repo(full_name, private=private or None, exist_ok=True).repo_id
        if full_name != repo_id:
            plan = plan_of(folder, full_name, license)
        operations = [
            CommitOperationAdd(name, plan.card.encode() if name == CARD else str(Path(folder) / name))
            for name in plan.files
        ]
        return api.create_commit(full_name, operations, commit_message=message or "Upload the model with merlin_hf")


def _check_repository(api: HfApi, repo_id: str, private: bool, update: bool) -> None:
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        return
    if private and not info.private:
        raise PublishError(
            f"{repo_id} is there already, and is public. Make it private in its settings, or give another name."
        )
    files = {file.rfilename for file in info.siblings or ()} - NO_MODEL
    if files and not update:
        raise PublishError(
            f"{repo_id} has a model already ({', '.join(sorted(files)[:3])}, …). Give another name, or `--update` to "
            "put this one on top of it as a new commit."
        )


# The card


def card_of(model: ModelFolder, repo_id: str, license: str | None) -> str:
    """Return the folder's card with the name of the repository in it, or one that is written from its files."""
    path = model.path / CARD
    if CARD in model.files:
        card = _read_card(path)
    else:
        card = write_card(_content_of_folder(model, repo_id))
    written_for = WRITTEN_FOR.search(card.text)
    if written_for is not None:
        _rename(card, written_for["repo_id"], repo_id)
    if license is not None:
        card.data["license"] = license
    return str(card)


def _read_card(path: Path) -> ModelCard:
    try:
        text = path.read_text(encoding="utf-8")
        block = REGEX_YAML_BLOCK.search(text)
        _check_yaml(block[2] if block else "", path)
        card = ModelCard(text)
        str(card)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, yaml.YAMLError) as error:
        raise PublishError(
            f"{path} cannot be read: {error}. Correct or remove it; a new one is written then."
        ) from error
    return card


def _check_yaml(text: str, path: Path) -> None:
    """Refuse aliases and deep nesting, by which a few lines make loading metadata take all memory or hours."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise PublishError(f"{path} has an alias (`*name`) in its metadata. Write out what it stands for.")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST_METADATA:
            raise PublishError(f"{path} has metadata of more than {DEEPEST_METADATA} levels. Write a flatter one.")


def _rename(card: ModelCard, old: str, new: str) -> None:
    """Replace the name of the repository, but leave a title that somebody chose."""
    for around in ('"{}"', "'{}'", "<!-- Written by merlin_hf for {}. "):
        card.text = card.text.replace(around.format(old), around.format(new))
    old_title, new_title = (name.split("/")[-1] for name in (old, new))
    title = f"# {escape(new_title)}"
    card.text = re.sub(rf"^# {re.escape(escape(old_title))}$", lambda _: title, card.text, count=1, flags=re.MULTILINE)
    if card.data.get("model_name") == old_title:
        card.data["model_name"] = new_title


def _content_of_folder(model: ModelFolder, repo_id: str) -> CardContent:
    """Return what the files say. Data and method are not known: training arguments are a pickle, and not read."""
    architectures = model.config.get("architectures")
    class_names = [name for name in architectures if isinstance(name, str)] if isinstance(architectures, list) else []
    task = task_of(class_names)
    if model.is_adapter:
        task = TEXT_CLASSIFICATION if model.config.get("task_type") == "SEQ_CLS" else None
        class_names = ["PeftModel"]
    if model.sentence_pairs is not None:
        task, class_names = TEXT_CLASSIFICATION, ["SentenceTransformer"]
    return CardContent(
        repo_id=repo_id,
        title=repo_id.split("/")[-1],
        class_name=class_names[0] if class_names else "AutoModel",
        task=task,
        base_model=hub_name(model.config.get("base_model_name_or_path")),
        evaluations=last_evaluations(model.log_history),
        log_history=model.log_history,
        tags=list(TAGS),
        has_processor=model.has_processor,
        is_adapter=model.is_adapter,
        sentence_pairs=model.sentence_pairs,
        texts=PLACEHOLDERS if model.sentence_pairs else PLACEHOLDERS[:1],
        is_trained_here=False,
    )
