"""What happened: the facts of SAE Studio, and the log that keeps them.

Nothing here imports another room of the house; inside the folder imports are relative, so that it can also be
built as a small client package. Importing `events` loads no store and no DuckDB.
"""
