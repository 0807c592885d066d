"""Pictures to masks with an exported model: decode, windows, batching, backends, writers. Never needs torch."""
