# make serve · make test · make record · make site · make offline      (each does its own set-up)

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python -m

.PHONY: serve test record site offline mutants

serve: $(VENV)/site-is-installed  ## read the site, with live reload on pages and snippets
	$(RUN) mkdocs serve

test: $(VENV)/all-is-installed  ## execute and check everything
	$(RUN) pytest --cov

record: $(VENV)/all-is-installed  ## execute the pages and write what they print and draw
	$(RUN) pytest docs --record

site: $(VENV)/site-is-installed  ## build the site into site/
	$(RUN) mkdocs build --strict

offline: site  ## the built site in one archive, to read and search without a server
	$(RUN) website.offline site pytorch-that-runs.zip

mutants: $(VENV)/all-is-installed  ## change the snippets in small ways and count the changes the tests notice
	$(RUN) mutmut run

$(VENV)/bin/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet uv==0.13.8

$(VENV)/site-is-installed: docs/requirements.txt | $(VENV)/bin/uv
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -r docs/requirements.txt
	touch $@

$(VENV)/all-is-installed: requirements.txt docs/requirements.txt | $(VENV)/bin/uv
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -r requirements.txt
	touch $@
