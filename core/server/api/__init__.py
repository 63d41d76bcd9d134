"""The REST API: one module a subject, one table of operations that drives both routing and OpenAPI."""
