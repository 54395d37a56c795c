"""The service on the nodes of a Ray cluster."""
