"""Adapters as artefacts: the bundle on disk and loading it over a base."""
