# Recipes for a checkout with .venv in place: `just check`.

check: lint types test

lint:
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .

types:
    .venv/bin/mypy

test *options:
    .venv/bin/pytest {{options}}

# On a Mac: all that only a Mac can show, in one JSON file to send back. Up to 15 minutes; fetches 2.7 GB once.
mac *options:
    python3 -m venv .venv
    .venv/bin/pip install -q -e ".[test]"
    .venv/bin/python benchmarks/mac.py {{options}}

# Needs the parity extra: torch.
parity:
    .venv/bin/pytest -m "parity and not soak"

# Writes the generated files again: pages in docs/, and the demo in the package.
generate:
    .venv/bin/python docs/make_cli.py
    .venv/bin/python docs/make_api.py
    .venv/bin/python docs/make_server_fields.py
    .venv/bin/python docs/make_guests.py
    .venv/bin/python examples/demo_model/ship.py

# Trains the demo and its draft from nothing; needs the demo-training extra: torch.
demo:
    .venv/bin/python examples/demo_model/make.py
