"""Bundles as one HTML page: no network, no script, light or dark as its reader likes."""
