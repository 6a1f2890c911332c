"""The REST API on 127.0.0.1:8006."""
