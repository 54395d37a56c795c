"""The other servers. Each `serve_*` runs in an environment of its own, where only `common` is shared."""
