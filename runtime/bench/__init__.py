"""The command algm-bench: models, thresholds, batch sizes and backends measured against each other."""
