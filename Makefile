# `make demo` and `make test` need Python 3.10 or newer, make and a package index; each sets up what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo demo-table compare-table test test-fast test-versions test-newest test-deepspeed test-ray benchmarks benchmark-speed benchmark-heads benchmark-theory \
	benchmark-semisynthetic benchmark-transfer benchmarks-report benchmark-ablations benchmark-sources fuzz docs types build lint format clean

demo: $(VENV)/.installed-demo
	$(BIN)/python examples/demo.py

# Five draws of the target's rows, about 25 minutes on two cores that are fast at bfloat16.
demo-table: $(VENV)/.installed-demo
	$(BIN)/python examples/demo.py --seeds 0 1 2 3 4 --output_dir runs/demo-table \
		--methods embeddings finetune source_probe sequential joint merlin
	mkdir -p benchmarks/demo
	cp runs/demo-table/results.json runs/demo-table/table.md runs/demo-table/comparison.png benchmarks/demo

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist worksteal

# All but those marked as slow, in less than three minutes of two cores.
test-fast: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

# The same tests with the oldest supported versions, in an environment of their own; PYTHON=python3.10 for the oldest Python too.
test-versions: $(VENV)-oldest/.installed
	$(VENV)-oldest/bin/python -m pytest -n 2 --dist worksteal

# The same tests with the newest transformers that the index has; PYTHON=python3.13 for a newer Python too.
test-newest: $(VENV)-newest/.installed
	$(VENV)-newest/bin/python -m pytest -n 2 --dist worksteal

# DeepSpeed's ZeRO on CPU processes; no operation of it is compiled.
test-deepspeed: $(VENV)/.installed-test
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt setuptools wheel ninja
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --disable-pip-version-check -q --no-build-isolation deepspeed
	$(BIN)/python -m pytest tests/distributed/test_deepspeed.py tests/cli/test_train.py

# Workers on a Ray cluster of two nodes, with the processes that two machines have.
test-ray: $(VENV)/.installed-test
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[ray]"
	$(BIN)/python -m pytest tests/comparison/test_ray_workers.py

# What a step costs beside joint training, Trainer and a plain loop.
benchmark-speed: $(VENV)/.installed-test
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -r benchmarks/speed/requirements.txt
	$(BIN)/python benchmarks/speed/run.py

# Time, memory and accuracy of the heads beside other ways to differentiate through a fit.
benchmark-heads: $(VENV)/.installed-test
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -r benchmarks/heads/requirements.txt
	$(BIN)/python benchmarks/heads/run.py

# All that the documents show, from nothing: days on two cores. All but demo-table, benchmark-speed and benchmark-heads go on where they were interrupted.
benchmarks: demo-table compare-table benchmark-speed benchmark-heads benchmark-theory benchmark-semisynthetic benchmark-transfer \
	benchmark-ablations benchmark-sources

# The README's comparison of methods; needs MERLIN_DATA_ROOT or the Hub.
compare-table: $(VENV)/.installed-test
	$(BIN)/merlin-hf compare examples/compare/usps.yaml
	mkdir -p benchmarks/compare
	cp runs/compare-usps/results.json runs/compare-usps/table.md runs/compare-usps/comparison.png benchmarks/compare

# The quadratic network of the paper, about 20 minutes on one core.
benchmark-theory: $(VENV)/.installed-test
	$(BIN)/python benchmarks/theory/run.py

# Images with a signature on the source, about four and a half hours of one core; CIFAR-10 needs MERLIN_DATA_ROOT or the Hub.
benchmark-semisynthetic: $(VENV)/.installed-test
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -r benchmarks/semisynthetic/requirements.txt
	$(BIN)/python benchmarks/semisynthetic/run.py

# Pairs of real data sets, days of one core; it goes on where it was interrupted. Needs MERLIN_DATA_ROOT or the Hub.
benchmark-transfer: $(VENV)/.installed-test
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -r benchmarks/transfer/requirements.txt
	$(BIN)/python benchmarks/transfer/run.py
	$(BIN)/python benchmarks/transfer/setfit_peer.py
	$(BIN)/python benchmarks/transfer/cost.py
	$(BIN)/python benchmarks/transfer/report.py

# MeRLin's default with one thing changed at a time, 450 runs; needs MERLIN_DATA_ROOT or the Hub.
benchmark-ablations: $(VENV)/.installed-test
	$(BIN)/python benchmarks/ablations/run.py

# All tables and figures of the documents from the results that are there; trains nothing.
benchmarks-report: $(VENV)/.installed-test
	set -e; for file in transfer/report.py ablations/table.py semisynthetic/figures.py theory/figures.py heads/plot.py sources/table.py speed/plot.py; \
		do echo "$$file"; $(BIN)/python benchmarks/$$file; done

# Which source? About twelve minutes of one core; needs MERLIN_DATA_ROOT or the Hub.
benchmark-sources: $(VENV)/.installed-test
	$(BIN)/python benchmarks/sources/run.py

# Attacks: options, configurations, files, kills; a few minutes.
fuzz: $(VENV)/.installed-test
	set -e; for file in tests/fuzz/[a-z]*.py; do echo "$$file"; $(BIN)/python -W ignore -m "tests.fuzz.$$(basename $$file .py)"; done

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first and by itself: a range would pull the newest build, gigabytes of it, before the constraint is looked at.
$(VENV)/.installed-%: setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt torch
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[$*]"
	@touch $@

$(VENV)-oldest/.installed: setup.py constraints-oldest.txt
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --disable-pip-version-check -q -c constraints-oldest.txt torch
	$(VENV)-oldest/bin/python -m pip install --disable-pip-version-check -q -c constraints-oldest.txt -e ".[test]"
	@touch $@

$(VENV)-newest/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)-newest
	grep -vE '^(transformers|tokenizers|huggingface_hub)==' constraints.txt > $(VENV)-newest/constraints.txt
	$(VENV)-newest/bin/python -m pip install --disable-pip-version-check -q -c $(VENV)-newest/constraints.txt torch
	$(VENV)-newest/bin/python -m pip install --disable-pip-version-check -q -c $(VENV)-newest/constraints.txt -e ".[test]"
	@touch $@

# The site, into runs/site; warnings are errors. The pages of the methods are written first, from docstrings and options, and the English is checked.
docs: $(VENV)/.installed-test $(VENV)-docs/.installed
	$(BIN)/python docs/method_pages.py
	$(BIN)/python docs/prose.py
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/python -m mkdocs build --strict

# What pyproject.toml says of types.
types: $(VENV)/.installed-test $(VENV)/.installed-types
	$(BIN)/mypy

# Wheel and sdist into dist/, and the wheel in a clean environment beside the installed dependencies.
build: $(VENV)/.installed-test $(VENV)/.installed-build
	rm -rf build dist $(VENV)-wheel
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip install --disable-pip-version-check -q --no-deps dist/*.whl
	echo "import sysconfig; print(sysconfig.get_path('purelib'))" > $(VENV)-wheel/where.py
	$(BIN)/python $(VENV)-wheel/where.py > "$$($(VENV)-wheel/bin/python $(VENV)-wheel/where.py)/beside.pth"
	$(VENV)-wheel/bin/python -I tests/docs/check_wheel.py

$(VENV)-docs/.installed: constraints-docs.txt
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --disable-pip-version-check -q -r constraints-docs.txt
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest $(VENV)-docs $(VENV)-wheel .mypy_cache runs build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
