"""The words: frozen types in the order data flows, no algorithms."""
