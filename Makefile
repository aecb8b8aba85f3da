# Nothing but Python 3.11+ and make is needed; everything is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all test-portable test-oldest lint types hooks docs docs-serve dist release-check clean

demo: .venv/installed  ## train vanilla, AdvProp and EBN on the bundled sample, attack them, print the table
	$(BIN)/easybn demo --out runs/demo

test: .venv/installed-dev  ## the tests that CI runs
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

test-all: .venv/installed-dev .venv-robustbench/installed  ## the long ones and those of the extras too
	$(BIN)/pip install --quiet --editable ".[medmnist,mlflow,onnx,plot,tensorboard,transformers,wandb]" --group dist --group fuzz --group notebooks
	$(BIN)/pip install --quiet --no-deps trackio brotli gradio_client orjson python-multipart websockets  # it pins an old pillow
	$(BIN)/pip install --quiet --no-deps foolbox eagerpy torchattacks  # docs/coming-from.md; they pin old versions too
	$(BIN)/pytest -n 2 --dist worksteal
	$(MAKE) types

test-portable: .venv/installed-dev  ## the same tests as other processors, threads, orders and paths would run them
	$(BIN)/python tests/portable.py

test-oldest: .venv-oldest/installed  ## the same tests with the oldest versions that pyproject.toml allows
	.venv-oldest/bin/python -m pytest -n 2 --dist worksteal -m "not slow"

lint: .venv/installed-dev  ## style, types, and that imports go down only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

types: .venv/installed-types  ## that type checkers know every public name (half a minute; pyright brings node)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pyright --verifytypes easybn --ignoreexternal

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

.venv/installed: pyproject.toml | .venv/bin/python
	@echo "Installing easybn and PyTorch into .venv (a minute or two)"
	$(BIN)/pip install --editable .
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	@echo "Installing easybn, PyTorch and the test tools into .venv (a minute or two)"
	$(BIN)/pip install --editable . --group dev
	@touch .venv/installed $@

.venv/installed-docs: pyproject.toml | .venv/bin/python
	@echo "Installing easybn, PyTorch and MkDocs into .venv (a minute or two)"
	$(BIN)/pip install --editable . --group docs
	@touch .venv/installed $@

.venv/installed-dist: pyproject.toml .venv/installed-dev
	$(BIN)/pip install --quiet --group dist
	@touch $@

.venv/installed-types: pyproject.toml .venv/installed-dev
	$(BIN)/pip install --quiet --group types
	@touch $@

.venv-oldest/installed: pyproject.toml tests/portable.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv-oldest
	@echo "Installing the oldest versions of everything into .venv-oldest (some minutes)"
	.venv-oldest/bin/python -m pip install --quiet --upgrade pip
	$(PYTHON) tests/portable.py --lower-bounds > .venv-oldest/lower-bounds.txt
	.venv-oldest/bin/pip install --editable . --group dev --constraint .venv-oldest/lower-bounds.txt
	@touch $@

.venv-robustbench/installed: tests/with_robustbench/environment.py .venv/installed-dev
	@echo "Installing RobustBench and the versions that it pins into .venv-robustbench (some seconds)"
	$(BIN)/python tests/with_robustbench/environment.py .venv-robustbench
	@touch $@

hooks: .venv/installed-dev  ## run the lint before every commit
	$(BIN)/pre-commit install

docs: .venv/installed-docs  ## the documentation site, into build/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: .venv/installed-docs  ## the site as you write, on http://127.0.0.1:8000
	$(BIN)/mkdocs serve

dist: .venv/installed-dist  ## the wheel and the sdist, checked (docs/release.md)
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

release-check: .venv/installed-dev  ## all that docs/release.md asks for, in order, with the time of each (hours)
	$(BIN)/python tools/release_check.py

clean:
	rm -rf .venv .venv-oldest .venv-robustbench build dist
