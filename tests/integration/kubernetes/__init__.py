"""The manifests of docs/kubernetes, against the API's schemas, the real agent and the real Prometheus."""
