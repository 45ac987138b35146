"""The sequences: one YAML file each, and the prompt sets they use."""
