"""`merlin-hf publish` and `push_to_hub` against a Hub over HTTP, and what happens when they fail."""

import json
import os
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from merlin_hf.cli.main import main
from merlin_hf.cli.publish import format_size
from merlin_hf.hub import PublishError, publish_folder
from merlin_hf.hub.publish import plan_of
from tests.hub.card_rules import broken_rules
from tests.hub.conftest import READ_TOKEN, TOKEN, contents, holds, text_trainer
from tests.hub.server import Repository
from tests.tiny import tiny_bert


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What a run leaves behind: a model, checkpoints, and the training arguments in a pickle."""
    folder = tmp_path_factory.mktemp("runs") / "films"
    trainer = text_trainer(folder, save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    trainer.create_model_card()
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "films")


def command(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["publish", *map(str, arguments)])
    return ended.value.code


# What is published


def test_a_run_is_published_without_its_training_state(folder, online, monkeypatch, capsys):
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    before = contents(folder)
    assert command(folder, "ada/films", "--token_env", "MY_TOKEN", "--license", "mit", "--message", "First") == 0
    repository = online.repositories["ada/films"]
    assert sorted(repository.files) == [
        ".gitattributes", "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert not repository.private and repository.commits[-1].message == "First"
    assert repository.files["model.safetensors"] == before["model.safetensors"]
    assert contents(folder) == before, "nothing in the folder is changed"
    out = capsys.readouterr().out
    assert "Left out: training_args.bin (a pickle" in out and "Left out: checkpoint-2" in out and "/commit/" in out
    card = ModelCard(repository.files["README.md"].decode())
    assert card.data.license == "mit" and 'model="ada/films"' in card.text and 'model="films"' not in card.text
    assert card.data.eval_results


def test_the_title_is_the_name_of_the_repository_but_one_that_was_chosen(folder, trained):
    text = plan_of(folder, "ada/cinema").card
    assert "# cinema\n" in text and "# films" not in text and ModelCard(text).data.model_name == "cinema"
    card = folder / "README.md"
    card.write_text(card.read_text().replace("# films", "# All the films").replace("- name: films", "- name: mine"))
    text = plan_of(folder, "ada/cinema").card
    assert "# All the films\n" in text and ModelCard(text).data.model_name == "mine"


def test_as_json(folder, online, monkeypatch, capsys):
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    assert command(folder, "films", "--token_env", "MY_TOKEN", "--json") == 0
    shown = capsys.readouterr()
    found, repository = json.loads(shown.out), online.repositories["ada/films"]
    assert (found["repo"], found["url"]) == ("ada/films", f"{online.url}/ada/films")
    assert found["commit_url"] == f"{found['url']}/commit/{found['commit']}"
    sent = {name: len(content) for name, content in repository.files.items() if name != ".gitattributes"}
    assert found["files"] == sent and found["size"] == sum(sent.values())
    assert "training_args.bin" in found["left_out"] and "Published: " in shown.err
    assert command(folder, "ada/other", "--dry_run", "--json") == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["url"] is planned["commit"] is None and planned["card"].startswith("---")
    assert planned["files"].keys() == sent.keys() and "ada/other" not in online.repositories
    assert command(folder, "ada/films", "--token_env", "MY_TOKEN", "--json") == 1, "there is a model already"
    assert capsys.readouterr().out == ""


def test_without_an_owner_the_repository_is_ones_own(folder, online):
    url = publish_folder(folder, "films", token=TOKEN, private=True)
    assert url.startswith(f"{online.url}/ada/films/commit/") and online.repositories["ada/films"].private
    assert b'model="ada/films"' in online.repositories["ada/films"].files["README.md"]


def test_a_checkpoint_is_published_with_a_card_of_what_it_says(folder, online):
    checkpoint = folder / "checkpoint-2"
    assert (checkpoint / "transfer_state.safetensors").exists() and not (checkpoint / "README.md").exists()
    publish_folder(checkpoint, "ada/films", token=TOKEN)
    files = online.repositories["ada/films"].files
    assert sorted(files) == [
        ".gitattributes", "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    card = ModelCard(files["README.md"].decode())
    assert card.data.pipeline_tag == "text-classification" and "## Training log" in card.text
    assert not (checkpoint / "README.md").exists()


def test_dry_run_sends_nothing_and_needs_no_token(folder, hub, capsys):
    assert command(folder, "ada/films", "--dry_run", "--license", "mit") == 0
    out = capsys.readouterr().out
    assert "model.safetensors" in out and "kB" in out and "license: mit" in out and "# films" in out
    assert "transfer_state" not in out and hub.requests == []


def test_a_card_of_the_users_stays_as_it_is(folder, online):
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n", encoding="utf-8")
    publish_folder(folder, "ada/films", token=TOKEN)
    assert online.repositories["ada/films"].files["README.md"] == b"---\nlicense: mit\n---\n\n# Mine\n"


def test_a_folder_that_cannot_be_written_to(folder, online):
    os.chmod(folder / "README.md", 0o444)
    os.chmod(folder, 0o555)
    try:
        publish_folder(folder, "ada/films", token=TOKEN, license="mit")
    finally:
        os.chmod(folder, 0o755)
    assert b"license: mit" in online.repositories["ada/films"].files["README.md"]
    assert b"license: mit" not in (folder / "README.md").read_bytes()


def test_weights_in_shards_and_an_adapter(tmp_path, online):
    from peft import LoraConfig, get_peft_model

    tiny_bert().save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    publish_folder(tmp_path / "shards", "ada/shards", token=TOKEN)
    files = online.repositories["ada/shards"].files
    assert "model.safetensors.index.json" in files and sum(name.endswith(".safetensors") for name in files) > 1
    adapter = get_peft_model(tiny_bert(), LoraConfig(task_type="SEQ_CLS", r=2))
    adapter.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "README.md").unlink()
    publish_folder(tmp_path / "adapter", "ada/adapter", token=TOKEN)
    files = online.repositories["ada/adapter"].files
    assert "adapter_config.json" in files and "adapter_model.safetensors" in files
    assert b"library_name: peft" in files["README.md"]


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": 3}, {"architectures": [None, 3]}, {"architectures": ["<script>alert(1)</script>`\n# a"]}, {},
        {"architectures": "BertForSequenceClassification"}, {"architectures": {"a": 1}},
    ],
)  # fmt: skip
def test_any_configuration_has_a_card(config, folder):
    (folder / "README.md").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    text = plan_of(folder, "ada/films").card
    assert broken_rules(text) == ([], []) and "\n# a" not in text and "AutoModel" in text


def test_any_log_has_a_card(folder):
    (folder / "README.md").unlink()
    values = {"eval_<b>\n# c": 0.5, "eval_d": "x", "epoch": [1], "loss": float("nan")}
    entries = [{"loss": 1}, {"step": 1, **values}, {"step": 2, "eval_a": float("inf")}]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": entries}))
    text = plan_of(folder, "ada/films").card
    assert broken_rules(text) == ([], []) and "\n# c" not in text and "<b>" not in text.split("\n---\n", 1)[1]


# Folders that are no model


def no_config(folder):
    (folder / "config.json").unlink()


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def a_pickle(folder):
    no_weights(folder)
    torch.save({}, folder / "pytorch_model.bin")


def half_the_weights(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def empty_weights(folder):
    save_file({}, folder / "model.safetensors")


def a_missing_shard(folder):
    no_weights(folder)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": torch.ones(1)}, folder / "model-00001-of-00002.safetensors")


def broken_config(folder):
    (folder / "config.json").write_text("{")


def broken_card(folder):
    (folder / "README.md").write_text("---\n- a\n- b\n---\n")


def a_card_of_aliases(folder):
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(30)]
    (folder / "README.md").write_text("\n".join(["---", *lines, "---", ""]))


def a_deep_card(folder):
    (folder / "README.md").write_text(f"---\na: {'[' * 10_000}\n---\n")


def no_folder(folder):
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_config, "config.json missing. There is one in .*checkpoint-2"),
        (no_weights, "model.safetensors missing"),
        (a_pickle, "pytorch_model.bin is a pickle.*save_pretrained"),
        (half_the_weights, "model.safetensors is not whole"),
        (empty_weights, "has no weights"),
        (a_missing_shard, "model-00002-of-00002.safetensors missing"),
        (broken_config, "config.json is not JSON"),
        (broken_card, "README.md cannot be read.*Correct or remove it"),
        (a_card_of_aliases, "README.md has an alias"),
        (a_deep_card, "README.md has metadata of more than 20 levels"),
        (no_folder, "is not a folder"),
    ],
)
def test_a_folder_without_a_whole_model_is_refused(spoil, said, folder, online, capsys):
    spoil(folder)
    with pytest.raises(PublishError, match=said):
        publish_folder(folder, "ada/films", token=TOKEN)
    assert command(folder, "ada/films", "--dry_run") == 2
    assert capsys.readouterr().err.startswith("merlin-hf publish: ")
    assert online.requests == []


def test_what_is_wrong_with_the_command_itself(folder, capsys, monkeypatch):
    monkeypatch.delenv("MY_TOKEN", raising=False)
    assert command(folder, "ada/films", "--token_env", "MY_TOKEN") == 2
    assert command(folder, "ada/films", "--licence", "mit") == 2
    assert command(folder, "a/b/c") == 2
    err = capsys.readouterr().err
    assert "MY_TOKEN" in err and "unrecognized arguments: --licence mit" in err and "`user/name`" in err


# What a Hub refuses


def add(online, name, private=False, files=None):
    online.repositories[name] = Repository(private)
    online.repositories[name].commit("initial commit", files or {".gitattributes": b""})


@pytest.mark.parametrize("token", ["hf_bm90LWEtdG9rZW4", None])
def test_a_wrong_token_or_none(token, folder, online, monkeypatch, capsys):
    before = contents(folder)
    options = []
    if token:
        monkeypatch.setenv("MY_TOKEN", token)
        options = ["--token_env", "MY_TOKEN"]
    assert command(folder, "ada/films", *options) == 1
    shown = "".join(capsys.readouterr())
    assert ("does not know this token" if token else "there is no token") in shown
    assert "hf auth login" in shown and "HF_TOKEN" in shown and "settings/tokens" in shown
    assert not (token and holds(shown, token))
    assert contents(folder) == before and online.repositories == {}


@pytest.mark.parametrize(("name", "token"), [("bob/films", READ_TOKEN), ("eve/films", TOKEN)])
def test_a_token_that_may_not_write_there(name, token, folder, online):
    with pytest.raises(PublishError, match=f"may not write to {name}.*role `write`"):
        publish_folder(folder, name, token=token)
    assert online.repositories == {}


def test_a_repository_of_somebody_else(folder, online):
    add(online, "eve/films")
    with pytest.raises(PublishError, match="may not write to eve/films.*under your own name"):
        publish_folder(folder, "eve/films", token=TOKEN)
    assert len(online.repositories["eve/films"].commits) == 1


def test_a_repository_with_a_model_is_not_overwritten_by_accident(folder, online):
    add(online, "ada/films", files={".gitattributes": b"", "model.safetensors": b"another", "other.json": b"{}"})
    with pytest.raises(PublishError, match="ada/films has a model already.*another name, or `--update`"):
        publish_folder(folder, "ada/films", token=TOKEN)
    assert len(online.repositories["ada/films"].commits) == 1
    publish_folder(folder, "ada/films", token=TOKEN, update=True)
    repository = online.repositories["ada/films"]
    assert repository.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert "other.json" in repository.files and repository.commits[0].files["model.safetensors"] == b"another"


def test_a_private_model_does_not_go_to_a_public_repository(folder, online):
    add(online, "ada/films")
    with pytest.raises(PublishError, match="is public. Make it private in its settings, or give another name"):
        publish_folder(folder, "ada/films", token=TOKEN, private=True, update=True)
    assert len(online.repositories["ada/films"].commits) == 1


def test_a_card_that_the_hub_refuses_is_refused_before_weights_are_sent(folder, online):
    with pytest.raises(PublishError, match='"license" must be one of.*Correct the lines between'):
        publish_folder(folder, "ada/films", token=TOKEN, license="do what you like")
    assert online.requested("PUT|preupload|/commit/") == []


def test_offline(folder, hub, monkeypatch):
    with pytest.raises(PublishError, match="HF_HUB_OFFLINE is set; unset it"):
        publish_folder(folder, "ada/films", token=TOKEN, endpoint=hub.url)


# Connections that fail


def test_an_upload_that_is_cut_off_once_goes_on_by_itself(folder, online):
    online.cut_uploads = 1
    publish_folder(folder, "ada/films", token=TOKEN)
    assert len(online.requested("PUT /storage")) == 2
    assert online.repositories["ada/films"].files["config.json"] == (folder / "config.json").read_bytes()


def test_an_upload_that_is_cut_off_again_and_again_can_be_done_later(folder, online, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    before = contents(folder)
    online.cut_uploads = 100
    assert command(folder, "ada/films") == 1
    err = capsys.readouterr().err
    assert "the connection failed" in err and "Try again" in err and "Nothing was lost here" in err
    assert contents(folder) == before and sorted(online.repositories["ada/films"].files) == [".gitattributes"]
    online.cut_uploads = 0
    assert command(folder, "ada/films") == 0
    assert online.repositories["ada/films"].files["model.safetensors"] == before["model.safetensors"]


def test_after_a_commit_that_failed_the_weights_are_not_sent_again(folder, online):
    online.refuse_commits = 1
    with pytest.raises(PublishError, match="the connection failed.*files that the Hub has are not sent again"):
        publish_folder(folder, "ada/films", token=TOKEN)
    publish_folder(folder, "ada/films", token=TOKEN)
    assert len(online.requested("PUT /storage")) == 1 and "model.safetensors" in online.repositories["ada/films"].files


def test_nobody_answers(folder, online):
    online._server.server_close()
    online._server.shutdown()
    with pytest.raises(PublishError, match="the connection failed"):
        publish_folder(folder, "ada/films", token=TOKEN)


def test_sizes():
    assert [format_size(size) for size in (0, 999, 1000, 4_200_000, 7 * 10**9, 7 * 10**12)] == [
        "0 B", "999 B", "1.0 kB", "4.2 MB", "7.0 GB", "7000.0 GB",
    ]  # fmt: skip
