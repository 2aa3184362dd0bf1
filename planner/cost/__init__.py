"""What it costs in seconds and bytes."""
