"""What is published from the sources."""
