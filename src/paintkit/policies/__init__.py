"""The policies: each takes a machine's decisions and acts on them around a call. They never import each other."""
