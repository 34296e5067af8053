"""Parts of the Zak-OTFS benchmark (../otfs.py)."""
