"""Trainer's own ways to the Hub: `push_to_hub`, at the end and while training, with our card and without the token."""

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification, TrainingArguments

from merlin_hf.hub import PublishError, publish_folder
from merlin_hf.utils.manifest import MANIFEST_NAME
from tests.hub.conftest import TOKEN, contents, holds, text_trainer


def pushing(folder, **options):
    return text_trainer(folder, hub_model_id="ada/films", hub_token=TOKEN, **options)


def test_push_to_hub_has_the_card_and_the_token_is_in_no_file(tmp_path, online, capsys, caplog):
    trainer = pushing(tmp_path / "out", push_to_hub=True, save_strategy="steps", save_steps=1)
    trainer.train()
    trainer.evaluate()
    trainer.push_to_hub(license="mit", source_dataset_tags="ada/books")
    repository = online.repositories["ada/films"]
    messages = [commit.message for commit in repository.commits]
    assert messages[-1] == "End of training" and "Training in progress, step 1" in messages
    first = next(commit for commit in repository.commits if commit.message == "Training in progress, step 1")
    assert b"**MeRLin**" in first.files["README.md"], "the card is there from the first push"
    card = ModelCard(repository.files["README.md"].decode())
    assert card.data.license == "mit" and card.data.datasets == ["ada/books"] and card.data.eval_results
    assert 'model="ada/films"' in card.text and "transfer_state.safetensors" not in repository.files
    everything = {**contents(tmp_path), **{f"{c.oid}/{n}": f for c in repository.commits for n, f in c.files.items()}}
    assert "out/training_args.bin" in everything and "training_args.bin" not in repository.files
    assert [name for name, content in everything.items() if holds(content, TOKEN)] == []
    shown = "".join(capsys.readouterr()) + caplog.text + repr(trainer.args) + str(trainer.args)
    assert not holds(shown, TOKEN) and not any(TOKEN in request for request in online.requests)


@pytest.mark.parametrize("strategy", ["end", "checkpoint", "all_checkpoints"])
def test_strategies(strategy, tmp_path, online):
    trainer = pushing(
        tmp_path / "out", push_to_hub=True, save_strategy="steps", save_steps=1, hub_strategy=strategy,
        hub_always_push=True
    )  # fmt: skip
    trainer.train()
    trainer._finish_current_push()
    trainer.push_to_hub()
    files = online.repositories["ada/films"].files
    inner = {name.split("/")[0] for name in files if "/" in name}
    assert (
        inner
        == {"end": set(), "checkpoint": {"last-checkpoint"}, "all_checkpoints": {"checkpoint-1", "checkpoint-2"}}[
            strategy
        ]
    )
    assert (tmp_path / "out" / "checkpoint-2" / MANIFEST_NAME).is_file()
    assert [name for name in files if MANIFEST_NAME in name] == []
    assert b"**MeRLin**" in files["README.md"]
    assert [name for name, content in {**files, **contents(tmp_path)}.items() if holds(content, TOKEN)] == []


def test_a_checkpoint_is_published_without_the_record_of_its_run(tmp_path, online):
    trainer = text_trainer(tmp_path / "out", save_strategy="steps", save_steps=1)
    trainer.train()
    publish_folder(tmp_path / "out" / "checkpoint-2", "ada/films", token=TOKEN)
    sent = set(online.repositories["ada/films"].files)
    assert "model.safetensors" in sent and MANIFEST_NAME not in sent


def test_what_else_lies_in_the_folder_is_not_pushed(tmp_path, online, caplog):
    trainer = pushing(tmp_path / "out", push_to_hub=True, save_strategy="steps", save_steps=1, hub_always_push=True)
    (tmp_path / "key").write_text("secret")
    for name in (".env", "vocab.pkl", "notes.txt", "model.py"):
        (tmp_path / "out" / name).write_text("secret")
    (tmp_path / "out" / "vocab.txt").symlink_to(tmp_path / "key")
    trainer.train()
    trainer._finish_current_push()
    trainer.push_to_hub()
    sent = {name for commit in online.repositories["ada/films"].commits for name in commit.files}
    model = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {name for name in sent if not name.startswith("last-checkpoint/")} == {".gitattributes", *model}
    assert any("vocab.txt" in message and "is a link" in message for message in caplog.messages)


def test_without_a_source_a_push_is_trainers(tmp_path, online):
    trainer = pushing(tmp_path / "out", source=False)
    trainer.push_to_hub()
    assert "training_args.bin" in online.repositories["ada/films"].files


def test_plain_training_arguments_keep_the_token_too(tmp_path, online):
    trainer = pushing(tmp_path / "out", args_class=TrainingArguments)
    trainer.push_to_hub()
    files = {**contents(tmp_path), **online.repositories["ada/films"].files}
    assert "training_args.bin" not in online.repositories["ada/films"].files
    assert [name for name, content in files.items() if holds(content, TOKEN)] == []
    assert torch.load(tmp_path / "out" / "training_args.bin", weights_only=False).hub_token is None
    assert trainer.args.hub_token == TOKEN and TOKEN not in str(trainer.args.to_dict())


def test_a_push_that_fails_says_how_to_do_it_later_and_that_works(tmp_path, online):
    trainer = pushing(tmp_path / "out")
    trainer.train()
    online.cut_uploads = 100
    with pytest.raises(PublishError, match="Nothing was lost here; `merlin-hf publish .*out ada/films`") as failed:
        trainer.push_to_hub()
    assert not holds(str(failed.value), TOKEN)
    online.cut_uploads = 0
    publish_folder(tmp_path / "out", "ada/films", token=TOKEN)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label[0] == "bad"
    assert b"**MeRLin**" in online.repositories["ada/films"].files["README.md"]


def test_a_wrong_token_is_found_before_training(tmp_path, online):
    online.accounts.clear()
    with pytest.raises(PublishError, match="does not know this token.*hf auth login"):
        pushing(tmp_path / "out", push_to_hub=True)


def test_a_card_that_cannot_be_written(tmp_path):
    trainer = text_trainer(tmp_path)
    (tmp_path / "README.md").mkdir()
    with pytest.raises(PublishError, match="README.md.*can be written to, with `trainer.save_model"):
        trainer.create_model_card()


def test_a_card_that_fails_does_not_end_training(tmp_path, online):
    trainer = pushing(tmp_path / "out", push_to_hub=True, save_strategy="steps", save_steps=1)
    trainer.model_card_arguments = {"no_such_argument": 1}
    assert trainer.train().global_step == 2
    trainer._finish_current_push()
    assert "model.safetensors" in online.repositories["ada/films"].files
