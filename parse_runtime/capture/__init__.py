"""What a capture records: settings, files, passes in torch."""
