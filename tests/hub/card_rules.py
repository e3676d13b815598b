"""The rules of the Hub for the lines between the two `---` of a model card, as far as they are written down."""

import re

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK


NAME = re.compile(r"^(?:[\w.-]{1,96}/)?[\w.-]{1,96}$")
LICENSES = {
    "apache-2.0",
    "mit",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "gpl-3.0",
    "openrail",
    "other",
    "unknown",
}
TYPES = {
    "library_name": str,
    "pipeline_tag": str,
    "license": str,
    "tags": list,
    "datasets": (str, list),
    "metrics": (str, list),
    "language": (str, list),
    "base_model": (str, list),
    "widget": list,
    "model-index": list,
}


def broken_rules(content: str) -> tuple[list[str], list[str]]:
    """Errors, for which an upload is refused, and warnings."""
    block = REGEX_YAML_BLOCK.search(content)
    if block is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(block.group(2))
    except yaml.YAMLError as error:
        return [f"invalid yaml: {error}"], []
    if not isinstance(data, dict):
        return ["metadata must be an object"], []
    errors = [
        f'"{key}" must be {kind}' for key, kind in TYPES.items() if key in data and not isinstance(data[key], kind)
    ]
    for key in ("tags", "datasets", "metrics", "language", "base_model"):
        values = data.get(key, [])
        errors += [
            f'"{key}" must hold strings, has {value!r}'
            for value in ([values] if isinstance(values, str) else values)
            if not isinstance(value, str)
        ]
    for key in ("datasets", "base_model"):
        values = data.get(key, [])
        errors += [
            f'"{key}" with value {value!r} is not valid, use an id of the Hub'
            for value in ([values] if isinstance(values, str) else values)
            if not NAME.match(str(value))
        ]
    if "license" in data and data["license"] not in LICENSES:
        errors.append(f'"license" must be one of {sorted(LICENSES)}')
    for example in data.get("widget", []):
        if not isinstance(example, dict) or not isinstance(example.get("text"), str):
            errors.append('"widget" must hold objects with a text')
    return errors + model_index_errors(data.get("model-index", [])), []


def model_index_errors(model_index: list) -> list[str]:
    errors = []
    for model in model_index:
        if not isinstance(model.get("name"), str) or not isinstance(model.get("results"), list):
            return ['"model-index[0]" needs a name and results']
        for number, result in enumerate(model["results"]):
            for part, keys in {"task": ("type",), "dataset": ("type", "name")}.items():
                errors += [
                    f'"model-index[0].results[{number}].{part}.{key}" is required'
                    for key in keys
                    if not isinstance(result.get(part, {}).get(key), str)
                ]
            if not result.get("metrics"):
                errors.append(f'"model-index[0].results[{number}].metrics" is required')
            for metric in result.get("metrics", []):
                value = metric.get("value")
                is_finite = isinstance(value, str) or (isinstance(value, int | float) and value - value == 0)
                if not isinstance(metric.get("type"), str) or not is_finite:
                    errors.append(f'"model-index[0].results[{number}].metrics" needs a type and a value')
    return errors
