"""
Classifiers of texts on a sentence encoder of sentence-transformers: its own pooling, and a linear head on top.

A folder with `modules.json` describes a sentence encoder. Nothing in it is run or unpickled here: its modules must be
some of sentence-transformers' own, with weights in safetensors. What is saved is such a folder again, which
sentence-transformers loads by itself.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BatchEncoding,
    DataCollatorWithPadding,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
)

from ..utils.errors import reading
from ..utils.files import FileError, read_json
from ..utils.loading import find_file, hub_options, load_config, load_model, read_object
from ..utils.validation import ConfigError


if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MODULES = "modules.json"
MODEL_CONFIG = "config_sentence_transformers.json"
TRANSFORMER_CONFIG = "sentence_bert_config.json"
PAIR_HEAD = "pair_classifier"  # the folder of a head for pairs of texts
EMBEDDING, LOGITS = "sentence_embedding", "logits"  # what modules read and write
ADAPTED_HEAD = "base_model.model.classifier.weight"  # the name of the head's weight in an adapter
SECOND = "_b"  # ends the names of the inputs that belong to the second of two texts
# Set on the last layer of a model while its input is wanted in place of the logits.
RETURN_FEATURES = "return_features"
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PACKAGE = re.compile(
    r"sentence_transformers\.(models|base\.modules|sentence_transformer\.modules)(\.\w+)*\.(?P<name>\w+)"
)
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize", "Dense", "LayerNorm", "Dropout", "WeightedLayerPooling")
WITH_WEIGHTS = ("Dense", "LayerNorm", "WeightedLayerPooling")
MODULE_FOLDER = re.compile(r"\d{1,3}_\w{1,60}")
# Settings of the transformer that a folder may bring; others could have code loaded.
PLAIN_SETTINGS = {"model_max_length", "add_pooling_layer", "torch_dtype", "dtype"}
NESTED_SETTINGS = ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs")


# Folders


def is_sentence_encoder(path: str, **hub: Any) -> bool:
    """
    Return whether a folder or a repository on the Hub has a sentence encoder; `hub` are as for `from_pretrained`.

    An ImportError if it has one, and sentence-transformers is missing.
    """
    if find_file(path, MODULES, **hub) is None:
        return False
    found = find_file(path, MODEL_CONFIG, **hub)
    kind = read_object(found).get("model_type", "SentenceTransformer") if found is not None else "SentenceTransformer"
    if kind != "SentenceTransformer":  # such as a CrossEncoder, which is a plain classifier
        return False
    import_library(path)
    return True


def classifier_class(path: str, wanted: bool | None = None, called: str = "sentence_encoder", **hub: Any) -> Any:
    """
    Return the class that loads the classifier of texts in a folder or a repository on the Hub.

    `wanted`, which the user calls `called`, says whether it is to be a sentence encoder; its files do if not given. A
    ConfigError if it is to be one and is none, an ImportError if sentence-transformers is missing.
    """
    if wanted is False:
        return AutoModelForSequenceClassification
    if is_sentence_encoder(path, **hub_options(hub)):
        return SentenceEncoderForSequenceClassification
    if wanted:
        raise ConfigError(
            f"`{called}`: {path!r} is not a sentence encoder, as it has no {MODULES} of one: leave it out."
        )
    return AutoModelForSequenceClassification


def import_library(path: str = "a sentence encoder") -> Any:
    """Import sentence-transformers, or raise an ImportError that says how to install it."""
    try:
        import sentence_transformers
    except ImportError as error:
        raise ImportError(
            f"{path!r} is a sentence encoder (it has a {MODULES}), which needs sentence-transformers: "
            '`pip install "merlin_hf[sentence]"`.'
        ) from error
    return sentence_transformers


def check_modules(path: str, **hub: Any) -> None:
    """Raise a FileError unless all modules that a folder names are of sentence-transformers, with safetensors."""
    found = find_file(path, MODULES, **hub)
    if found is None:
        raise FileError(f"{path!r} has no {MODULES}, so it is not a sentence encoder.")
    try:
        modules = read_json(Path(found))
    except FileError as error:
        raise FileError(f"{found} cannot be used: {error}.") from error
    if not isinstance(modules, list) or not modules or not all(isinstance(module, dict) for module in modules):
        raise FileError(f"{found} is not a list of modules.")
    known = ", ".join(KNOWN_MODULES)
    for place, module in enumerate(modules):
        kind, folder = module.get("type"), module.get("path")
        match = PACKAGE.fullmatch(kind) if isinstance(kind, str) else None
        if match is None or match["name"] not in KNOWN_MODULES:
            raise FileError(
                f"{found} names the module {str(kind)[:200]!r}, which is not run here: a sentence encoder may have "
                f"{known} of sentence_transformers."
            )
        if (match["name"] == "Transformer") != (place == 0):
            raise FileError(f"{found} must begin with a Transformer, and has {match['name']} as module {place}.")
        if folder != "" and (place == 0 or not isinstance(folder, str) or MODULE_FOLDER.fullmatch(folder) is None):
            raise FileError(
                f"{found} has the module {kind!r} in the folder {str(folder)[:200]!r}. The Transformer lies beside "
                f"{MODULES} and other modules in a folder such as 1_Pooling; "
                f"`SentenceTransformer({path!r}).save(folder)` writes it so."
            )
        if match["name"] in WITH_WEIGHTS:
            _check_weights(path, folder, match["name"], **hub)
    if find_file(path, ADAPTER_CONFIG_NAME, **hub) is not None:
        raise FileError(
            f"{path!r} has a sentence encoder with an adapter ({ADAPTER_CONFIG_NAME}), which is not loaded here: "
            "merge it with `merge_and_unload()` and save the whole."
        )
    if not any(find_file(path, name, **hub) for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)):
        raise FileError(
            f"{path!r} has no {SAFE_WEIGHTS_NAME}; other files of weights, which may be pickles, are not read."
        )
    settings = find_file(path, TRANSFORMER_CONFIG, **hub)
    if settings is not None:
        _check_settings(settings)


def _check_weights(path: str, folder: str, kind: str, **hub: Any) -> None:
    """Check that the weights of a module are safetensors, and of the sizes that its configuration says."""
    where = f"{folder}/{SAFE_WEIGHTS_NAME}"
    weights, config = (find_file(path, f"{folder}/{name}", **hub) for name in (SAFE_WEIGHTS_NAME, CONFIG_NAME))
    if weights is None or config is None:
        raise FileError(
            f"{path!r} has no {where} and {CONFIG_NAME} for its module {kind}; other files of weights, which may be "
            "pickles, are not read."
        )
    with reading(f"{weights} is damaged"), safe_open(weights, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    if kind == "Dense":
        content = read_object(config)
        described = (content.get("out_features"), content.get("in_features"))
        if shapes.get("linear.weight") != described:
            raise FileError(
                f"{config} describes a layer of {described} weights, and {weights} has {shapes.get('linear.weight')}."
            )


def _check_settings(path: str) -> None:
    """Check that the settings of the transformer load nothing but the files beside them."""
    content = read_object(path)
    task = content.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise FileError(f"{path} has transformer_task={task!r}, and a sentence encoder has 'feature-extraction'.")
    if content.get("tokenizer_name_or_path"):
        raise FileError(f"{path} names another tokenizer (`tokenizer_name_or_path`); save the encoder with its own.")
    for name in NESTED_SETTINGS:
        given = content.get(name) or {}
        if not isinstance(given, dict) or set(given) - PLAIN_SETTINGS:
            odd = sorted(set(given) - PLAIN_SETTINGS) if isinstance(given, dict) else given
            raise FileError(f"{path} has the settings {name}={str(odd)[:200]}, which are not taken from a file.")


def load_sentence_encoder(
    path: str, called: str | None = None, model_kwargs: dict[str, Any] | None = None, **hub: Any
) -> "SentenceTransformer":
    """
    Load a sentence encoder, on the CPU and from safetensors; of a saved classifier, with its head.

    `model_kwargs` are options of the transformer's own `from_pretrained`. A FileError names what cannot be loaded, or
    would run code of others; messages call the model `called`.
    """
    library = import_library(path)
    hub = hub_options(hub)
    with reading(f"{called or repr(path)} cannot be loaded"):
        load_config(path, **hub)  # checks sizes
        check_modules(path, **hub)
        options = {"cache_folder": hub.pop("cache_dir", None), **hub}
        if Path(path).is_dir():
            options["local_files_only"] = True
        return library.SentenceTransformer(
            path,
            device="cpu",
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, **(model_kwargs or {})},
            **options,
        )


def head_kind(path: str, **hub: Any) -> bool | None:
    """Return whether the head saved with a sentence encoder reads pairs of texts; `None` where there is none."""
    if find_file(path, f"{PAIR_HEAD}/{CONFIG_NAME}", **hub) is not None:
        return True
    modules = find_file(path, MODULES, **hub)
    last = read_json(Path(modules))[-1] if modules is not None else {}
    config = find_file(path, f"{last.get('path')}/{CONFIG_NAME}", **hub)
    if config is None or not str(last.get("type")).endswith(".Dense"):
        return None
    return False if read_object(config).get("module_output_name") == LOGITS else None


def load_adapter(base: str, adapter: str, **options: Any) -> Any:
    """
    Load an adapter of PEFT with the sentence encoder that it belongs to, and its head; in evaluation mode.

    Args:
        base, adapter (`str`): folders, or names on the Hub.
        options: of [`SentenceEncoderForSequenceClassification.from_pretrained`].

    Raises:
        FileError: one of them cannot be loaded, or the adapter has no head.
    """
    from peft import PeftModel

    weights = find_file(adapter, ADAPTER_SAFE_WEIGHTS_NAME)
    if weights is None:
        raise FileError(f"{adapter!r} has no {ADAPTER_SAFE_WEIGHTS_NAME}.")
    with reading(f"{weights} is damaged"), safe_open(weights, framework="pt") as file:
        shape = next((file.get_slice(name).get_shape() for name in file.keys() if name == ADAPTED_HEAD), None)
    if shape is None:
        raise FileError(f"{weights} has no head: {ADAPTED_HEAD} is missing.")
    if "config" not in options:
        options["config"] = load_config(base, num_labels=shape[0])
    # The head of the base model may be of another size; the adapter brings its own.
    options |= {"head_features": shape[1], "ignore_mismatched_sizes": True}
    model = load_model(SentenceEncoderForSequenceClassification, base, **options)
    with reading(f"The adapter in {adapter!r} does not fit {base!r}"):
        return PeftModel.from_pretrained(model, adapter).eval()


# Tokens


def default_prompt(encoder: "SentenceTransformer") -> str:
    """Return what the encoder puts before every text, an empty text if nothing."""
    return encoder.prompts.get(encoder.default_prompt_name or "", "") or ""


class SentenceTokenizer:
    """
    The tokenizer of a sentence encoder, with its prompt before each text and two texts apart from each other.

    Called as a tokenizer of transformers. The inputs of a second text have the same names, ending in `_b`:
    `input_ids_b` and so on. Everything else is the tokenizer's own.

    Args:
        encoder (`SentenceTransformer`): a sentence encoder.
    """

    def __init__(self, encoder: "SentenceTransformer"):
        self.tokenizer = encoder.tokenizer
        self.prompt = default_prompt(encoder)

    def __call__(
        self, texts: Sequence[str] | str, second_texts: Sequence[str] | str | None = None, **options: Any
    ) -> BatchEncoding:
        """Return the tokens of texts, and of `second_texts`; `options` are the tokenizer's."""
        encoded = self.tokenizer(self._prompted(texts), **options)
        if second_texts is not None:
            for name, value in self.tokenizer(self._prompted(second_texts), **options).items():
                encoded[f"{name}{SECOND}"] = value
        return encoded

    def _prompted(self, texts: Sequence[str] | str) -> Sequence[str] | str:
        if not self.prompt:
            return texts
        return self.prompt + texts if isinstance(texts, str) else [self.prompt + text for text in texts]

    def __getattr__(self, name: str) -> Any:
        if name == "tokenizer" or name.startswith("__"):  # of an object that is being copied
            raise AttributeError(name)
        return getattr(self.tokenizer, name)

    def __len__(self) -> int:
        return len(self.tokenizer)


class SentenceCollator(DataCollatorWithPadding):
    """[`~transformers.DataCollatorWithPadding`] that also pads the second texts of pairs, to their own length."""

    def __call__(self, features: list[Mapping[str, Any]]) -> BatchEncoding:
        """Return a batch of rows."""
        first = [{name: value for name, value in row.items() if not name.endswith(SECOND)} for row in features]
        second = [
            {name.removesuffix(SECOND): value for name, value in row.items() if name.endswith(SECOND)}
            for row in features
        ]
        batch = super().__call__(first)
        if any(second):
            batch.update({f"{name}{SECOND}": value for name, value in super().__call__(second).items()})
        return batch


def text_collator(tokenizer: Any, **options: Any) -> DataCollatorWithPadding:
    """Return what makes batches of the rows that a tokenizer made; `options` are those of the collator."""
    if isinstance(tokenizer, SentenceTokenizer):
        return SentenceCollator(tokenizer.tokenizer, **options)
    return DataCollatorWithPadding(tokenizer, **options)


def has_pairs(inputs: Any) -> bool:
    """Return whether inputs, or names of columns, are those of two texts a row."""
    return f"{TEXT_INPUTS[0]}{SECOND}" in inputs


def stack_pairs(inputs: Mapping[str, Any], pad_token_id: int = 0, pad_left: bool = False) -> dict[str, Tensor]:
    """
    Return the inputs of all texts as one batch: of n pairs the n first texts, then the n second ones.

    Shorter ones are filled up to `(2 * n, longest)`, `input_ids` by `pad_token_id`; before the tokens if `pad_left`.
    """
    stacked = {name: inputs[name] for name in TEXT_INPUTS if inputs.get(name) is not None}
    if not has_pairs(inputs):
        return stacked
    if "attention_mask" not in stacked:
        for end in ("", SECOND):
            inputs = {**inputs, f"attention_mask{end}": torch.ones_like(inputs[f"input_ids{end}"])}
        stacked["attention_mask"] = inputs["attention_mask"]
    for name in stacked:
        both = (inputs[name], inputs[f"{name}{SECOND}"])
        longest = max(part.shape[1] for part in both)
        value = pad_token_id if name == TEXT_INPUTS[0] else 0
        missing = [longest - part.shape[1] for part in both]
        sides = [(count, 0) if pad_left else (0, count) for count in missing]
        stacked[name] = torch.cat(
            [nn.functional.pad(part, side, value=value) for part, side in zip(both, sides, strict=True)]
        )
    return stacked


# The classifier


class SentenceEncoderForSequenceClassification(PreTrainedModel):
    """
    A linear layer on the embeddings of a sentence encoder.

    Of two texts, which are encoded apart, the layer reads `[u, v, |u - v|, u * v]` (Conneau et al. 2017, InferSent,
    arXiv 1705.02364); their tokens come as `input_ids` and `input_ids_b`, see [`SentenceTokenizer`].

    Labels are in the transformer's own configuration, which is this model's. `save_pretrained` writes the folder of a
    sentence encoder: for single texts with the layer as a last module that writes `logits`, for pairs with the layer
    as a `Dense` in `pair_classifier`.

    Args:
        encoder (`SentenceTransformer`): it is trained, not copied.
        pairs (`bool`): whether rows have two texts.

    Raises:
        ValueError: the encoder has a module that is not known here, or gives shortened embeddings.
    """

    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    # The transformer has settled how it computes attention; it is not to be settled again.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, encoder: "SentenceTransformer", pairs: bool = False):
        check_encoder(encoder)
        transformer = encoder.transformers_model
        super().__init__(transformer.config)
        self.loss_type = "ForSequenceClassification"
        self.encoder = encoder
        self.pairs = pairs
        self.embedding_dimension = encoder.get_embedding_dimension()
        self.classifier = nn.Linear(self.num_features(pairs), self.config.num_labels, dtype=transformer.dtype)
        self._init_weights(self.classifier)
        self.classifier.to(transformer.device)
        self._no_split_modules = list(getattr(transformer, "_no_split_modules", None) or ())
        prompt = default_prompt(encoder)
        keeps_prompt = all(getattr(module, "include_prompt", True) for module in encoder)
        self._prompt_length = None if keeps_prompt else encoder.preprocess(["a"], prompt=prompt).get("prompt_length")
        # A pooler of the transformer's own is left out by the pooling of sentence encoders. Left trainable,
        # distributed training would wait for its gradient.
        pooler = getattr(transformer, "pooler", None)
        if isinstance(pooler, nn.Module) and encoder[0].module_output_name == "token_embeddings":
            pooler.requires_grad_(False)

    def num_features(self, pairs: bool) -> int:
        """Return how many features a head reads of one text, or of a pair."""
        return self.embedding_dimension * (4 if pairs else 1)

    def get_input_embeddings(self) -> nn.Module:
        """Return the layer that embeds tokens."""
        return self.encoder.transformers_model.get_input_embeddings()

    def _init_weights(self, module: nn.Module) -> None:
        self.encoder.transformers_model._init_weights(module)

    def pooled(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return what a head reads: `(n, embedding_dimension)` of texts, `(n, 4 * embedding_dimension)` of pairs."""
        tokenizer = self.encoder.tokenizer
        pad_left = getattr(tokenizer, "padding_side", "right") == "left"
        features: dict[str, Any] = stack_pairs(inputs, tokenizer.pad_token_id or 0, pad_left)
        if self._prompt_length is not None:
            features["prompt_length"] = self._prompt_length
        embeddings = self.encoder(features)[EMBEDDING]
        if not has_pairs(inputs):
            return embeddings
        u, v = embeddings.chunk(2)
        return torch.cat([u, v, (u - v).abs(), u * v], dim=1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        input_ids_b: Tensor | None = None,
        attention_mask_b: Tensor | None = None,
        token_type_ids_b: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """
        Classify texts, or pairs of texts whose second one's inputs end in `_b`; all of shape `(n, length)`.

        The last four arguments are there for wrappers that hand them on: tokens alone are taken, and nothing but a
        loss and logits given. A ValueError if the layer is for pairs and there are single texts, or the reverse.
        """
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("A sentence encoder takes `input_ids`, not `inputs_embeds`.")
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        if input_ids_b is not None:
            seconds = (input_ids_b, attention_mask_b, token_type_ids_b)
            inputs |= {f"{name}{SECOND}": value for name, value in zip(TEXT_INPUTS, seconds, strict=True)}
        features = self.pooled(inputs)
        # Features alone are asked for, perhaps of the other kind of rows, which the layer could not read.
        if getattr(self.classifier, RETURN_FEATURES, False):
            logits = features
        else:
            self._check_kind(input_ids_b is not None)
            logits = self.classifier(features)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, logits=logits, pooled_logits=logits, config=self.config)
        output = SequenceClassifierOutput(loss=loss, logits=logits)
        return output if return_dict in (None, True) else output.to_tuple()

    def _check_kind(self, given_pairs: bool) -> None:
        if given_pairs != self.pairs:
            wanted, given = ("pairs of texts", "single texts") if self.pairs else ("single texts", "pairs of texts")
            raise ValueError(
                f"The head of this model reads {wanted}, and was given {given}. Tokenize the rows by "
                f"SentenceTokenizer with {'two columns' if self.pairs else 'one column'} of texts, or make the model "
                f"with `pairs={given_pairs}`."
            )

    # Files

    def save_pretrained(
        self,
        save_directory: str,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Save what sentence-transformers loads, see above; `state_dict` has all weights of a model that is sharded.

        `push_to_hub` is refused: send the folder with `merlin-hf publish`.
        """
        if push_to_hub:
            raise ValueError("Save the model to a folder, and send that with `merlin-hf publish`.")
        if not is_main_process:
            return
        from sentence_transformers.sentence_transformer.modules import Dense

        folder, encoder = Path(save_directory), self.encoder
        # The one way to have the library save weights that lie elsewhere; a sharded model has parts of them only.
        with _reparametrize_module(self, state_dict) if state_dict is not None else nullcontext():
            weight, bias = self.classifier.weight.detach(), self.classifier.bias.detach()
            head = Dense(
                *reversed(weight.shape), activation_function=None, init_weight=weight, init_bias=bias,
                module_output_name=LOGITS,
            )  # fmt: skip
            if self.pairs:
                encoder.save(str(folder), create_model_card=False)
                (folder / PAIR_HEAD).mkdir(exist_ok=True)
                head.save(str(folder / PAIR_HEAD))
                return
            last = str(len(encoder))
            encoder.add_module(last, head)
            try:
                encoder.save(str(folder), create_model_card=False)
            finally:
                delattr(encoder, last)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike,
        config: PretrainedConfig | None = None,
        pairs: bool | None = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        dtype: torch.dtype | str | None = None,
        max_seq_length: int | None = None,
        head_features: int | None = None,
        from_scratch: bool = False,
        **options: Any,
    ) -> Any:
        """
        Load a sentence encoder with a new head, or a classifier that was saved with its head.

        Args:
            path (`str`): a folder, or a name on the Hub.
            config ([`~transformers.PretrainedConfig`], *optional*): has the labels, and how attention is computed.
            pairs (`bool`, *optional*): whether rows have two texts; as the head was saved if not given.
            ignore_mismatched_sizes (`bool`): start with a new head where the saved one is of another size.
            output_loading_info (`bool`): return the names of weights that are new as well.
            dtype (`torch.dtype` or `str`, *optional*): of the weights.
            max_seq_length (`int`, *optional*): tokens at which sentence-transformers is to cut texts.
            head_features (`int`, *optional*): that a head reads which will be loaded later; tells `pairs`.
            from_scratch (`bool`): leave the transformer's weights random; only its sizes are those of the files.
            options: `cache_dir`, `revision`, `token` and `local_files_only`. Others are those of
                [`~transformers.PreTrainedModel`], and change nothing.

        Raises:
            FileError: it cannot be loaded.
            ValueError: the saved head is of another size, or code of others is asked for.
        """
        if options.get("trust_remote_code"):
            raise ValueError(
                f"{path!r} is a sentence encoder, whose code is never run: leave `trust_remote_code` out."
            )
        path = os.fspath(path)
        hub = hub_options(options)
        model_kwargs = {} if dtype is None else {"dtype": dtype}
        attention = getattr(config, "_attn_implementation", None)
        if attention is not None:
            model_kwargs["attn_implementation"] = attention
        encoder = load_sentence_encoder(path, model_kwargs=model_kwargs, **hub)
        head, pair_head = take_head(encoder), _load_pair_head(path, **hub)
        if config is not None:
            own = encoder.transformers_model.config
            own.id2label, own.label2id = dict(config.id2label), dict(config.label2id)
            own.problem_type = config.problem_type
        if pairs is None:
            pairs = pair_head is not None
            if head_features is not None:
                pairs = head_features != encoder.get_embedding_dimension()
        if max_seq_length is not None:
            encoder.max_seq_length = min(max_seq_length, encoder.max_seq_length or max_seq_length)
        if from_scratch:
            transformer = encoder.transformers_model
            encoder[0].model = type(transformer)(transformer.config)
        model = cls(encoder, pairs)
        missing = model.load_head(pair_head if model.pairs else head, path, ignore_mismatched_sizes)
        found = {"missing_keys": missing, "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
        return (model, found) if output_loading_info else model

    def load_head(self, head: nn.Linear | None, path: str, ignore_mismatched_sizes: bool = False) -> set[str]:
        """Take the weights of a saved head, which must fit; return the names of weights that stay new."""
        new = {f"classifier.{name}" for name in ("weight", "bias")}
        if head is None:
            return new
        if head.weight.shape != self.classifier.weight.shape:
            if not ignore_mismatched_sizes:
                raise ValueError(
                    f"{path!r} has a head of {tuple(head.weight.shape)} weights, and "
                    f"{tuple(self.classifier.weight.shape)} are needed: `ignore_mismatched_sizes=True` starts with a "
                    "new one."
                )
            return new
        self.classifier.load_state_dict({"bias": torch.zeros_like(self.classifier.bias), **head.state_dict()})
        return set()

    @staticmethod
    def from_config(config: PretrainedConfig, trust_remote_code: bool = False, **options: Any) -> PreTrainedModel:
        """Return the transformer alone; its size tells whether a configuration describes the weights beside it."""
        return AutoModel.from_config(config, trust_remote_code=trust_remote_code, **options)


def is_encoder(model: Any) -> bool:
    """Return whether a model is a `SentenceTransformer`; the library is not imported for it."""
    library = sys.modules.get("sentence_transformers")
    return library is not None and isinstance(model, library.SentenceTransformer)


def check_encoder(encoder: "SentenceTransformer") -> None:
    """Raise a ValueError unless a sentence encoder of the user's own can be saved and loaded again."""
    kinds = [type(module).__name__ for module in encoder]
    odd = [
        kind
        for kind, module in zip(kinds, encoder, strict=True)
        if kind not in KNOWN_MODULES or not type(module).__module__.startswith("sentence_transformers.")
    ]
    if odd or kinds[0] != "Transformer":
        raise ValueError(
            f"The sentence encoder has the modules {', '.join(kinds)}. It must begin with a Transformer, and may have "
            f"{', '.join(KNOWN_MODULES[1:])} of sentence_transformers after it."
        )
    if getattr(encoder.transformers_model, "_hf_peft_config_loaded", False):
        raise ValueError(
            "The sentence encoder has an adapter already: pass it without, and the adapter's configuration as "
            "`peft_config=`, or merge it first."
        )
    if encoder.truncate_dim is not None:
        raise ValueError(
            f"The sentence encoder cuts embeddings to `truncate_dim={encoder.truncate_dim}` values, and a head is "
            "trained on whole ones: set `encoder.truncate_dim = None`."
        )


def take_head(encoder: "SentenceTransformer") -> nn.Linear | None:
    """Take the head out of an encoder that was saved with one for single texts; `None` if there is none."""
    from sentence_transformers.sentence_transformer.modules import Dense

    name, last = list(encoder.named_children())[-1]
    if not isinstance(last, Dense) or last.module_output_name != LOGITS:
        return None
    delattr(encoder, name)
    return last.linear


def _load_pair_head(path: str, **hub: Any) -> nn.Linear | None:
    """Load the head for pairs of texts that was saved beside an encoder; `None` if there is none."""
    from sentence_transformers.sentence_transformer.modules import Dense

    if find_file(path, f"{PAIR_HEAD}/{CONFIG_NAME}", **hub) is None:
        return None
    _check_weights(path, PAIR_HEAD, "Dense", **hub)
    with reading(f"The head in {path!r} cannot be loaded"):
        return Dense.load(path, subfolder=PAIR_HEAD, cache_folder=hub.pop("cache_dir", None), **hub).linear
