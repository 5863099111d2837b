"""The documentation site: `make docs`, or `python -m docs.site build/docs`."""
