"""The `.fdy` bundle: its data model, its reader and its writer (docs/format.md)."""
