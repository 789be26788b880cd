# make serve · make test · make test-gpu · make record · make site · make offline      (each does its own set-up)

PYTHON ?= python3
VENV ?= .venv
FOR ?= $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
RUN = $(VENV)/bin/python -m

.PHONY: serve test test-gpu wheels record site offline mutants gate

serve: $(VENV)/site-is-installed  ## read the site, with live reload on pages and snippets
	$(RUN) mkdocs serve

test: $(VENV)/all-is-installed  ## execute and check everything
	$(RUN) pytest --cov

test-gpu: $(VENV)/all-is-installed  ## execute and check every page on this machine's GPU, and write the record
	$(RUN) tests.page_runner.gpu
	$(RUN) pytest docs --keep-record --no-skips

wheels: $(VENV)/bin/uv  ## fetch what .ci/pages needs on a machine without a network: FOR=3.12.3 names its Python
	$(RUN) pip download --quiet --disable-pip-version-check --only-binary=:all: --python-version $(FOR) \
		--dest wheels -r tests/page_runner/requirements.txt

record: $(VENV)/all-is-installed  ## execute the pages and write what they print and draw
	$(RUN) pytest docs --record

site: $(VENV)/site-is-installed  ## build the site into site/
	$(RUN) mkdocs build --strict

offline: site  ## the built site in one archive, to read and search without a server
	$(RUN) website.offline site pytorch-that-runs.zip

mutants: $(VENV)/all-is-installed  ## change the snippets in small ways and count the changes the tests notice
	$(RUN) mutmut run

gate: $(VENV)/all-is-installed  ## plant faults in a copy of everything and count those that the checks notice
	$(RUN) tests.gate --rounds 4 --out records/gate/faults.json

$(VENV)/bin/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet uv==0.13.8

$(VENV)/site-is-installed: docs/requirements.txt | $(VENV)/bin/uv
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -r docs/requirements.txt
	touch $@

$(VENV)/all-is-installed: requirements.txt tests/page_runner/requirements.txt docs/requirements.txt | $(VENV)/bin/uv
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -r requirements.txt
	touch $@
