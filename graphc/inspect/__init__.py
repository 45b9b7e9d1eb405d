"""Text and JSON views of every stage."""
