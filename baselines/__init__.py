"""The methods: one file each, registered by name. Tuned settings are in presets/."""
